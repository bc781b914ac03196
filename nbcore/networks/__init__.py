"""What a network is: pure functions over a parameter pytree, its layers and its inputs."""
