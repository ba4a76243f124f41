# The twin's policy, from nothing. The steps of its stages took 157 minutes on two cores that compute in float32 (AVX2), validation
# included, less where they have bfloat16 (AMX: `see` half); data and corrections take 40 more. In the repository's root, after `make setup`:
#   make -j2 -f models/tiny.mk
# What is done already is not done again, and a stage that was stopped goes on where it was. The policy is runs/expert/checkpoint.
# Seeds are from 10000 on: evaluation has those from 0.
BIN ?= .venv/bin
TRAIN := $(BIN)/syvla-train
TOGETHER := $(BIN)/torchrun --nproc-per-node 2 -m syvla_models.cli# two processes of one thread: faster than two threads
TASKS := snack_loading math_packaging table_play
DATA := data/scenes/scenes.jsonl $(TASKS:%=data/%/.recorded)

# $(call stage,COMMAND,NAME): train models/configs/tiny-NAME.toml in runs/NAME
define stage
$(1) --config models/configs/tiny-$(2).toml --out runs/$(2) $(if $(wildcard runs/$(2)/state),--resume)
touch runs/$(2)/.done
endef

runs/expert/.done: | runs/correct/.done
	$(call stage,$(TOGETHER) finetune,expert)

runs/correct/.done: | data/corrections/.recorded
	$(call stage,$(TOGETHER) finetune,correct)

data/corrections/.recorded: | runs/finetune/.done
	$(TRAIN) record-demos data/corrections --task $(TASKS) --episodes 34 --first-seed 20000 --cameras cam_high \
		--learner runs/finetune/checkpoint --wordings 32 --jobs 2 || [ $$? = 1 ] # one that failed is left out
	touch $@

runs/finetune/.done: | runs/see/.done
	$(call stage,$(TOGETHER) finetune,finetune)

runs/see/.done: | runs/look/.done $(DATA)
	$(call stage,$(TOGETHER) see,see)

runs/look/.done: | data/scenes/scenes.jsonl
	$(call stage,$(TRAIN) see,look)

data/scenes/scenes.jsonl:
	rm -rf data/scenes.part
	$(TRAIN) record-scenes data/scenes.part --count 24000 --seed 1000000
	mv data/scenes.part data/scenes

EPISODES_snack_loading := 190
EPISODES_math_packaging := 150
EPISODES_table_play := 180

data/%/.recorded:
	$(TRAIN) record-demos data/$* --task $* --episodes $(EPISODES_$*) --first-seed 10000 --cameras cam_high \
		--astray 0.02 --misses 0.35 --wordings 32 --jobs 1 || [ $$? = 1 ] # one that failed is left out
	touch $@
