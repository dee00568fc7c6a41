"""A photopeak in a gamma-ray spectrum: Poisson counts of a Gaussian line on a nearly linear continuum.

Every prior follows from the window itself (its energies and channel width) and from the energy where the peak
was found; none looks at the counts.

    rate(E) = area * width * Normal(E; centre, sigma) + level * (1 + slope * u),    u = (E - middle) / half

`area` is the number of counts in the peak, `level` the counts per channel under it.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(energy, line_keV, n_points, counts=None):
    # `n_points` and not `energy.shape[0]`: windows of different lengths are padded with their last point.
    first, last = energy[0], energy[-1]
    width, middle, half = (last - first) / (n_points - 1), (first + last) / 2, (last - first) / 2

    log_area = numpyro.sample("log_area", dist.Normal(7.0, 3.0))
    centre = numpyro.sample("centre", dist.Normal(line_keV, 1.0))
    # Germanium detectors resolve 1 to 3 keV (full width at half maximum) from 60 keV to 3 MeV.
    log_sigma = numpyro.sample("log_sigma", dist.Normal(jnp.log(0.45 + 2.5e-4 * line_keV), 0.35))
    log_level = numpyro.sample("log_level", dist.Normal(4.0, 3.0))
    slope = numpyro.sample("slope", dist.Uniform(-1, 1))

    sigma = jnp.exp(log_sigma)
    line = jnp.exp(-0.5 * ((energy - centre) / sigma) ** 2) / (sigma * jnp.sqrt(2 * jnp.pi))
    continuum = jnp.exp(log_level) * (1 + slope * (energy - middle) / half)
    rate = numpyro.deterministic("rate", jnp.exp(log_area) * width * line + continuum + 1e-6)
    numpyro.sample("obs", dist.Poisson(rate), obs=counts)
