"""Models of spectra: streaming linear models, noise, rank, anomalies. Pure numpy and scipy, no sockets, no clocks."""
