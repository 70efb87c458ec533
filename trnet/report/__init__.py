"""Tables and plots of a suite: published, computed and measured. Imports no MXNet."""
