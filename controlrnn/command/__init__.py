"""The console command ``controlrnn``: the road from measurements to a controller, a stage a command."""
