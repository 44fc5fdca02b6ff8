# Short names for what is typed often. Each calls commands that stand by themselves, in the environment that is active.
PYTHON ?= python

RECORD = spread spread_conservative spread_plans chase battles_3m battles_2s3z battles_3m_qmix

.PHONY: test lint docs bench

# Everything that a change must pass: lint, formatting, types, import rules, then every test. Ten to fifteen minutes.
test:
	$(PYTHON) -m tests

# The first part of it: nothing is run, only read. About a minute.
lint:
	ruff check .
	ruff format --check .
	mypy
	lint-imports

# The pages that are generated: docs/results.md and docs/results_figures/, from the rows in benchmarks/results/;
# the extra [report] is needed, or the page loses its intervals.
docs:
	dof report $(RECORD:%=benchmarks/results/%) output=docs name=results 'title=Results: the benchmark of record' against=dof_policy formats=markdown overwrite=true

# Speeds of this machine as ratios to yardsticks of the same run (docs/performance.md). About a minute.
bench:
	$(PYTHON) -m benchmarks
