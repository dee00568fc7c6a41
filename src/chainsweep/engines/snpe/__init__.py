"""Sequential and amortised neural posterior estimation."""
