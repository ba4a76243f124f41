# What parts of the training are worth: each is left out, or the action space is the other one; everything else and the number
# of steps are the same, fewer than in the recipe. After `make -j2 -f models/tiny.mk`, or as soon as it has made runs/see and the corrections:
#   make -f models/ablations.mk
# Every variant begins with runs/see and acts 100 times: runs/ablations/NAME.json.
BIN ?= .venv/bin
TOGETHER := $(BIN)/torchrun --nproc-per-node 2 -m syvla_models.cli
VARIANTS := whole end_effector thoughtless synchronous undecoupled

SET_end_effector := --set 'action.space = "end_effector"' --set 'model.expert.aimed_in_hand = true'
SET_undecoupled := --set 'loss.decoupling = false'
SET_thoughtless := --set 'data.thought_probability = 0.0'
SET_synchronous := --set 'data.delay_range_s = [0.0, 0.0]' --set 'data.max_prefix = 0' --set 'action.execution_horizon_s = 0.0'

all: $(VARIANTS:%=runs/ablations/%.json)

# $(call train,STAGE,FROM,STEPS): models/configs/tiny-STAGE.toml without the variant's part, from runs/FROM
define train
$(TOGETHER) finetune --config models/configs/tiny-$(1).toml --out $(@D) $(if $(wildcard $(@D)/state),--resume) \
	--set 'init = "runs/$(2)/checkpoint"' --set 'budget.max_steps = $(3)' $(SET_$*)
touch $@
endef

runs/ablations/%.json: runs/ablations/expert/%/.done
	$(BIN)/syvla eval --policy $(<D)/checkpoint --task snack_loading --episodes 100 --jobs 2 --json $@

runs/ablations/expert/%/.done: runs/ablations/correct/%/.done
	$(call train,expert,ablations/correct/$*,800)

runs/ablations/correct/%/.done:
	$(call train,correct,see,800)

.PRECIOUS: runs/ablations/correct/%/.done runs/ablations/expert/%/.done
