"""The studies. This file makes the folder a package that no other one of that name takes the place of."""
