"""How fast is it, beside what one would use instead?"""
