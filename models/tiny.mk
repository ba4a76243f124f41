# The twin's policy, from nothing: about two hours on two cores that compute in bfloat16 (AVX512_BF16), where they do not more than four. By the
# rates of its parts alone: data 15 minutes, beside look; see 22, finetune 12, corrections 9 each, correct 13 and 20, expert 18. What came of it
# is in the card of syvla-tiny. In the repository's root, after `make setup`:
#   make -j2 -f models/tiny.mk
# What is done already is not done again, and a stage that was stopped goes on where it was. The policy is runs/expert/checkpoint.
# Seeds are from 10000 on: evaluation has those from 0.
BIN ?= .venv/bin
TRAIN := $(BIN)/syvla-train
TOGETHER := $(BIN)/torchrun --nproc-per-node 2 -m syvla_models.cli# two processes of one thread: faster than two threads
TASKS := snack_loading math_packaging table_play
DATA := data/scenes/scenes.jsonl $(TASKS:%=data/%/.recorded)

# $(call stage,COMMAND,NAME,RUN,CHANGES): train models/configs/tiny-NAME.toml in runs/RUN
define stage
$(1) --config models/configs/tiny-$(2).toml --out runs/$(3) $(4) $(if $(wildcard runs/$(3)/state),--resume)
touch runs/$(3)/.done
endef

# $(call corrections,NAME,LEARNER,SEED): what runs/LEARNER comes upon when it acts itself, and the demonstrator goes on from there
define corrections
$(TRAIN) record-demos data/$(1) --task $(TASKS) --episodes 50 --first-seed $(3) --cameras cam_high \
	--learner runs/$(2)/checkpoint --wordings 32 --jobs 2 || [ $$? = 1 ] # one that failed is left out
touch data/$(1)/.recorded
endef

runs/expert/.done: | runs/correct2/.done
	$(call stage,$(TOGETHER) finetune,expert,expert)

runs/correct2/.done: | data/corrections2/.recorded
	$(call stage,$(TOGETHER) finetune,correct,correct2,--set 'init = "runs/correct/checkpoint"' --set 'budget.max_steps = 1800')

data/corrections2/.recorded: | runs/correct/.done
	$(call corrections,corrections2,correct,20200)

runs/correct/.done: | data/corrections/.recorded
	$(call stage,$(TOGETHER) finetune,correct,correct)

data/corrections/.recorded: | runs/finetune/.done
	$(call corrections,corrections,finetune,20000)

runs/finetune/.done: | runs/see/.done
	$(call stage,$(TOGETHER) finetune,finetune,finetune)

runs/see/.done: | runs/look/.done $(DATA)
	$(call stage,$(TOGETHER) see,see,see)

runs/look/.done: | data/scenes/scenes.jsonl
	$(call stage,$(TRAIN) see,look,look)

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
