"""Makes the helpers beside this file importable from every test folder, and names how hypothesis searches."""

from hypothesis import Phase, settings

# For `make mutants`: the same examples each time, and no search for smaller ones once a test has failed.
settings.register_profile(
    "mutants", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
)
