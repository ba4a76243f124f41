# What parts of the training are worth. A fresh expert learns from the shipped planner, which stays as it is, with one part
# left out or in the other action space; everything else is the same, with fewer steps than in the recipe. Where the part
# also teaches the planner, that is trained on without it before; `continued` is trained on with everything, and is what these
# are held against. After `make -j2 -f models/tiny.mk data/corrections/.recorded`:
#   make -f models/ablations.mk
# Every variant acts 100 times: runs/ablations/NAME.json.
BIN ?= .venv/bin
TOGETHER := $(BIN)/torchrun --nproc-per-node 2 -m syvla_models.cli
SHIPPED := models/checkpoints/syvla-tiny
RETRAINED := continued undecoupled thoughtless
VARIANTS := whole end_effector synchronous $(RETRAINED)

SET_end_effector := --set 'action.space = "end_effector"' --set 'model.expert.aimed_in_hand = true'
SET_undecoupled := --set 'loss.decoupling = false'
SET_synchronous := --set 'data.delay_range_s = [0.0, 0.0]' --set 'data.max_prefix = 0' --set 'action.execution_horizon_s = 0.0'
SET_thoughtless := --set 'data.thought_probability = 0.0'
all: $(VARIANTS:%=runs/ablations/%.json)

PLANNER := $(SHIPPED)
define retrained
runs/ablations/expert/$(1)/.done: PLANNER := runs/ablations/correct/$(1)/checkpoint
runs/ablations/expert/$(1)/.done: runs/ablations/correct/$(1)/.done
endef
$(foreach variant,$(RETRAINED),$(eval $(call retrained,$(variant))))

# $(call train,VARIANT,STAGE,FROM,STEPS): models/configs/tiny-STAGE.toml without the variant's part, from FROM
define train
$(TOGETHER) finetune --config models/configs/tiny-$(2).toml --out $(@D) $(if $(wildcard $(@D)/state),--resume) \
	--set 'init = "$(3)"' --set 'budget.max_steps = $(4)' --set 'model.fresh_expert = true' $(SET_$(1))
touch $@
endef

runs/ablations/%.json: runs/ablations/expert/%/.done
	$(BIN)/syvla eval --policy $(<D)/checkpoint --task snack_loading --episodes 100 --jobs 2 --json $@

runs/ablations/expert/%/.done:
	$(call train,$*,expert,$(PLANNER),1200)

runs/ablations/correct/%/.done:
	$(call train,$*,correct,$(SHIPPED),800)

.PRECIOUS: runs/ablations/correct/%/.done runs/ablations/expert/%/.done
