"""What may not leave the server, or enter it: secrets, personal data, toxic sentences."""
