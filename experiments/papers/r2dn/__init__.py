"""Study of R2DN: the paper's three tasks and its scaling, against RENs of as many parameters, by measured times."""
