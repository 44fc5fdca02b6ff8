# Short names for what is typed often. Each calls commands that stand by themselves, in the environment that is active.
PYTHON ?= python

RECORD = spread spread_plans chase spread_experts battles_3m battles_2s3z battles_3m_qmix

.PHONY: test lint docs record bench

# Everything that a change must pass: lint, formatting, types, import rules, then every test. Ten to fifteen minutes.
test:
	$(PYTHON) -m tests

# The first part of it: nothing is run, only read. About a minute.
lint:
	ruff check .
	ruff format --check .
	mypy
	lint-imports

# The documentation as a site in site/; needs the extra [docs]. `mkdocs serve` shows it while you write.
docs:
	$(PYTHON) -m dof_lightning.config.reference
	mkdocs build --strict

# docs/results/record.md and docs/results/record_figures/, from the rows in benchmarks/results/; needs the extra [report],
# or the page loses its intervals.
record:
	dof report $(RECORD:%=benchmarks/results/%) output=docs/results name=record 'title=Results: the benchmark of record' against=dof_policy formats=markdown overwrite=true

# Speeds of this machine as ratios to yardsticks of the same run (docs/results/performance.md). About a minute.
bench:
	$(PYTHON) -m benchmarks
