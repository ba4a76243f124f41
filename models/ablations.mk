# What each part of the training is worth, at one smaller budget: 8 minutes of fine-tuning and 10 of the expert alone on one core
# for each variant, then 100 episodes. In the repository's root, after `make setup`:
#   make -j2 -f models/ablations.mk
# The results are runs/ablations/*/eval.json. The planner that they all begin with, and the demonstrations, are those of tiny.mk.
include models/tiny.mk
.DEFAULT_GOAL := ablations
.SECONDARY:

VARIANTS := whole no_decoupling no_thought synchronous end_effector
CHANGES_no_decoupling := --set 'loss.decoupling = false'
CHANGES_no_thought := --set 'data.thought_probability = 0.0'
CHANGES_synchronous := --set 'data.delay_range_s = [0.0, 0.0]' --set 'data.max_prefix = 0'
CHANGES_end_effector := --set 'action.space = "end_effector"'
ALONE := --set 'optimiser.freeze_vlm = true' --set 'data.action_samples = 32' --set 'loss.decoupling_samples = 2'
TRAINED := $(VARIANTS:%=runs/ablations/%/expert/.done)
TASK := snack_loading

.PHONY: ablations
ablations: $(VARIANTS:%=runs/ablations/%/eval.json)

# Nothing else runs while a budget of minutes is spent: all are trained before the first is evaluated.
runs/ablations/%/eval.json: | $(TRAINED)
	$(BIN)/syvla eval --policy runs/ablations/$*/expert/checkpoint --task $(TASK) --episodes 100 --json $@

# $(call variant,NAME,STAGE,INIT,MINUTES,CHANGES)
define variant
$(TRAIN) finetune --config models/configs/tiny-finetune.toml --out runs/ablations/$(1)/$(2) \
	$(if $(wildcard runs/ablations/$(1)/$(2)/state),--resume) --set 'init = "$(3)"' --set 'budget.max_minutes = $(4)' \
	$(5) $(CHANGES_$(1))
touch runs/ablations/$(1)/$(2)/.done
endef

runs/ablations/%/expert/.done: | runs/ablations/%/finetune/.done
	$(call variant,$*,expert,runs/ablations/$*/finetune/checkpoint,10.0,$(ALONE))

runs/ablations/%/finetune/.done: | runs/see/.done
	$(call variant,$*,finetune,runs/see/checkpoint,8.0)
