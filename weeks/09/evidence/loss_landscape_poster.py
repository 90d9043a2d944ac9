"""The two loss surfaces in relief, with their contours on the floor."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LightSource, Normalize

from shared.study import Run


def draw_poster(run: Run, surfaces: dict, errors: dict, reach: np.ndarray, depth: int) -> None:
    """Surfaces of log10 loss by name, over (α, β) in `reach` × `reach`."""
    title = f"The same {depth} layers, with and without a plus sign"
    look = {"layout": "none", "subplot_kw": {"projection": "3d", "computed_zorder": False}}
    with run.figure("surface", title, columns=2, size=(9.2, 5.0), **look) as axes:
        for panel, left, (name, z) in zip(axes, (0.0, 0.5), surfaces.items(), strict=True):
            draw_relief(panel, reach, z)
            panel.set_position((left - 0.005, 0.03, 0.475, 0.87))
            text = f"{name}: test error {errors[name]:.1f} %"
            panel.set_title(text, fontsize=11, weight="normal", loc="center", y=0.98)
        note = "training loss on filter-normalized planes through the trained networks"
        axes[0].figure.text(0.5, 0.01, note, ha="center", fontsize=9, color="#777777")


def draw_relief(axes, reach: np.ndarray, z: np.ndarray) -> None:
    """One surface."""
    a, b = np.meshgrid(reach, reach, indexing="ij")
    low, high = float(z.min()), float(z.max())
    floor, levels = low - 0.6 * (high - low), np.linspace(low, high, 22)
    norm, cmap = Normalize(low, high), colormaps["viridis"]
    on_floor = {"zdir": "z", "offset": floor}
    axes.contourf(a, b, z, levels=levels, cmap=cmap, alpha=0.5, zorder=0, **on_floor)
    lines = {"levels": levels[::2], "colors": "white", "linewidths": 0.5, "zorder": 1}
    axes.contour(a, b, z, **lines, **on_floor)
    spacing, steep = 2 / len(reach), 1.6 / (high - low)
    light = LightSource(azdeg=315, altdeg=42)
    options = {"blend_mode": "soft", "dx": spacing, "dy": spacing, "vert_exag": steep}
    shade = light.shade(z, cmap=cmap, norm=norm, **options)
    options = {"rstride": 1, "cstride": 1, "linewidth": 0, "antialiased": False, "shade": False}
    axes.plot_surface(a, b, z, facecolors=shade, zorder=2, **options)
    ticks = np.arange(np.ceil(low), np.floor(high) + 1, max(1, round((high - low) / 4)))
    axes.set(zlim=(floor, high), xlim=(-1, 1), ylim=(-1, 1), zticks=ticks)
    axes.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    axes.set_zticklabels([f"$10^{{{int(t)}}}$" for t in ticks])
    axes.tick_params(labelsize=7.5, pad=-2)
    axes.set_xlabel("α", labelpad=-8, fontsize=9)
    axes.set_ylabel("β", labelpad=-8, fontsize=9)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
    axes.set_box_aspect((1, 1, 0.9), zoom=0.97)
    axes.view_init(elev=26, azim=-50)
