r"""One block of the modern architecture as one operator, its backward pass written by hand.

A small model on a CPU is bound by the framework, not by arithmetic: autograd records some forty
operators a block, each with its own pass over memory. Here the block is a single node of the graph:
about half the passes, products in `dtype`, everything between them where its precision belongs.
`Block.forward` says the same in plain operators, and the tests hold the two equal, forward and
backward.

With $n = x\,r$ and $r = (\overline{x^2} + \epsilon)^{-1/2}$ over the dimensions of a head, a
normalized query or key has the gradient

$$\frac{\partial L}{\partial x} = r\,\big(g - n\,\overline{g\,n}\big).$$
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["FusedBlock", "rotary_table"]

_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward
QK_EPS = torch.finfo(torch.float32).eps  # what F.rms_norm adds by default


def rotary_table(
    cos: Float[Tensor, "1 1 seq half_dim"], sin: Float[Tensor, "1 1 seq half_dim"]
) -> tuple[Float[Tensor, "seq 1 dim"], Float[Tensor, "seq 1 dim"]]:
    """Factors of x and of x with its halves swapped whose sum is `week18.rotary.rotate(x)`."""
    cos, sin = cos[0, 0, :, None], sin[0, 0, :, None]
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


class FusedBlock(torch.autograd.Function):
    """x, four weights, the rotary table, heads, ε, dtype of the products -> the next x."""

    @staticmethod
    def forward(ctx, x, w_qkv, w_out, w_up, w_down, cos, sin, n_heads, eps, dtype):
        """The next residual stream (batch, seq, d)."""
        batch_size, seq, d = x.shape
        weights = [w.to(dtype) for w in (w_qkv, w_out, w_up, w_down)]
        u, mean1, rstd1 = torch.native_layer_norm(x, (d,), None, None, eps)
        u = u.to(dtype).view(-1, d)
        qkv = (u @ weights[0].t()).view(batch_size, seq, 3 * n_heads, -1).float()
        qk, v = qkv[:, :, : 2 * n_heads], qkv[:, :, 2 * n_heads :]
        square = torch.linalg.vector_norm(qk, dim=-1, keepdim=True).square_()
        r = square.div_(qk.shape[-1]).add_(QK_EPS).rsqrt_()
        n = qk * r
        turned = torch.addcmul(n * cos, n.roll(n.shape[-1] // 2, -1), sin)
        q, k = turned.transpose(1, 2).split(n_heads, 1)
        heads, lse = _attention(q, k, v.transpose(1, 2), 0.0, True)
        o = heads.transpose(1, 2).reshape(-1, d).to(dtype)
        middle = x + (o @ weights[1].t()).view_as(x)
        u2, mean2, rstd2 = torch.native_layer_norm(middle, (d,), None, None, eps)
        u2 = u2.to(dtype).view(-1, d)
        h = (u2 @ weights[2].t()).clamp_min_(0)
        a = h * h
        out = middle + (a @ weights[3].t()).view_as(x)
        first = (x, mean1, rstd1, u, n, r, q, k, v, heads, lse, o)
        ctx.save_for_backward(*first, middle, mean2, rstd2, u2, h, a, cos, sin, *weights)
        return out

    @staticmethod
    def backward(ctx, g):
        """Gradients of x and the four weights."""
        x, mean1, rstd1, u, n, r, q, k, v, heads, lse, o, *rest = ctx.saved_tensors
        middle, mean2, rstd2, u2, h, a, cos, sin, w_qkv, w_out, w_up, w_down = rest
        batch_size, seq, d = x.shape
        dtype = w_qkv.dtype
        only_input = (True, False, False)

        narrow = g.reshape(-1, d).to(dtype)
        g_down = narrow.t() @ a
        dh = (narrow @ w_down).mul_(h).mul_(2)  # (relu²)' = 2 relu
        g_up = dh.t() @ u2
        du2 = (dh @ w_up).float().view_as(x)
        g = g + _layer_norm_backward(du2, middle, (d,), mean2, rstd2, None, None, only_input)[0]

        narrow = g.view(-1, d).to(dtype)
        g_out = narrow.t() @ o
        dheads = (narrow @ w_out).float().view(batch_size, seq, -1, n.shape[-1]).transpose(1, 2)
        attended = (q, k, v.transpose(1, 2), heads, lse)
        dq, dk, dv = _attention_backward(dheads, *attended, 0.0, True)
        dturned = torch.cat([dq, dk], 1).transpose(1, 2)
        dn = torch.addcmul((dturned * sin).roll(n.shape[-1] // 2, -1), dturned, cos)
        dot = (dn * n).mean(-1, keepdim=True)
        dqk = torch.addcmul(dn, n, dot, value=-1).mul_(r)
        dqkv = torch.cat([dqk, dv.transpose(1, 2)], 2).to(dtype).view(batch_size * seq, -1)
        g_qkv = dqkv.t() @ u
        du = (dqkv @ w_qkv).float().view_as(x)
        g = g + _layer_norm_backward(du, x, (d,), mean1, rstd1, None, None, only_input)[0]
        wide = [w.float() for w in (g_qkv, g_out, g_up, g_down)]
        return g, *wide, None, None, None, None, None
