//! Which parameters train, and how: frozen, through low-rank adapters, or fully.
//!
//! The paper keeps both vision towers and CLIP as they are, adapts the language model with LoRA and trains the rest. Here
//! that is a table from prefixes of checkpoint names to policies; the longest prefix that fits a parameter decides.
//! A frozen parameter asks for no gradient, so a part whose parameters are all frozen runs without a tape.
//! Reference: `peft` set-up in `train.py`; section 4.1 of the paper.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::weights::names::{Layout, Path};
use crate::weights::{ParameterWalk, parameters, walk};

/// Saved with the model and never trained: constants, not weights.
const CONSTANTS: [&str; 1] = ["positional_encoding_gaussian_matrix"];

/// How a part of the model trains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainPolicy {
    /// No gradient, no tape.
    Frozen,
    /// Adapters on `q_proj` and `v_proj` train, everything else is frozen.
    Lora {
        /// Rank of the adapters.
        rank: usize,
        /// α: adapters are scaled by α / rank.
        alpha: f64,
    },
    /// Every weight trains.
    Full,
}

impl TrainPolicy {
    /// Word for listings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Lora { .. } => "lora",
            Self::Full => "full",
        }
    }
}

/// Policies by prefix of a parameter's name; `Full` where none fits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainPolicies {
    by_prefix: BTreeMap<String, TrainPolicy>,
}

/// A parameter and what becomes of it in training.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyParameter {
    /// Name in the checkpoint.
    pub name: String,
    /// Sizes as the module holds it.
    pub shape: Vec<usize>,
    /// Identity within the process.
    pub id: ParamId,
    /// What was asked for the part it belongs to.
    pub policy: TrainPolicy,
    /// Whether it gets gradients and is updated.
    pub trains: bool,
}

impl PolicyParameter {
    /// Values it holds.
    pub fn n_values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Values of a module, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleCount {
    /// Prefix of the names.
    pub module: String,
    /// All values.
    pub n_values: usize,
    /// Those that train fully.
    pub n_full: usize,
    /// Those of adapters.
    pub n_lora: usize,
}

impl ModuleCount {
    /// Values that do not train.
    pub fn n_frozen(&self) -> usize {
        self.n_values - self.n_full - self.n_lora
    }
}

impl TrainPolicies {
    /// Policies from pairs of prefix and policy, for example `("seg_model.image_encoder", Frozen)`.
    pub fn new(by_prefix: impl IntoIterator<Item = (String, TrainPolicy)>) -> Self {
        Self {
            by_prefix: by_prefix.into_iter().collect(),
        }
    }

    /// What the reference trains: LoRA of rank 8 and α 16 in the language model; both vision towers, CLIP and the
    /// "no memory" embedding frozen; the rest fully.
    pub fn paper() -> Self {
        use TrainPolicy::{Frozen, Full, Lora};
        let lora = Lora {
            rank: 8,
            alpha: 16.0,
        };
        let table = [
            ("visual", Frozen),
            ("model", lora),
            ("model.embed_tokens", Full),
            ("assist_clf", Frozen),
            ("seg_model.image_encoder", Frozen),
            ("seg_model.no_mem_embed", Frozen),
        ];
        Self::new(table.map(|(prefix, policy)| (prefix.to_owned(), policy)))
    }

    /// Policy of the parameter or module of this name.
    pub fn of(&self, name: &str) -> TrainPolicy {
        let mut prefix = name;
        loop {
            if let Some(policy) = self.by_prefix.get(prefix) {
                return *policy;
            }
            match prefix.rfind('.') {
                Some(dot) => prefix = &prefix[..dot],
                None => return TrainPolicy::Full,
            }
        }
    }

    /// Every parameter in the order of the walk. Values are not drawn, so a model of any size may be listed.
    pub fn parameters<M: Module>(&self, module: &M) -> Vec<PolicyParameter> {
        struct Lister<'a>(&'a TrainPolicies, Vec<PolicyParameter>);
        impl ParameterWalk for Lister<'_> {
            fn parameter<const D: usize>(
                &mut self,
                name: String,
                _layout: Layout,
                param: &Param<Tensor<D>>,
            ) {
                self.1.push(PolicyParameter {
                    shape: param.lazy_shape().to_vec(),
                    id: param.id,
                    policy: self.0.of(&name),
                    trains: self.0.trains(&name),
                    name,
                });
            }
        }
        let mut lister = Lister(self, Vec::new());
        walk(module, &mut lister);
        lister.1
    }

    /// Values per module: names are cut to their first `depth` parts, in the order of the walk.
    pub fn counts<M: Module>(&self, module: &M, depth: usize) -> Vec<ModuleCount> {
        let mut counts: Vec<ModuleCount> = Vec::new();
        for parameter in self.parameters(module) {
            let end = parameter.name.match_indices('.').nth(depth - 1);
            let module = &parameter.name[..end.map_or(parameter.name.len(), |(at, _)| at)];
            let at = counts
                .iter()
                .position(|count| count.module == module)
                .unwrap_or_else(|| {
                    counts.push(ModuleCount {
                        module: module.to_owned(),
                        ..ModuleCount::default()
                    });
                    counts.len() - 1
                });
            let n_values = parameter.n_values();
            counts[at].n_values += n_values;
            if parameter.trains {
                if is_adapter(&parameter.name) {
                    counts[at].n_lora += n_values
                } else {
                    counts[at].n_full += n_values
                }
            }
        }
        counts
    }

    /// The module with gradients asked for exactly where they are wanted.
    ///
    /// # Errors
    ///
    /// A prefix that no parameter has, or LoRA for a part without adapters, see
    /// `Lavida::with_policies`.
    pub(crate) fn apply<M: Module>(&self, module: M) -> Result<M> {
        let names: Vec<String> = parameters(&module)
            .into_iter()
            .map(|parameter| parameter.name)
            .collect();
        for (prefix, policy) in &self.by_prefix {
            let below = || names.iter().filter(|name| is_below(name, prefix));
            let invalid = |expected: &str, found: &str| Error::Invalid {
                what: key(prefix),
                expected: expected.to_owned(),
                found: found.to_owned(),
            };
            if below().next().is_none() {
                return Err(invalid(
                    "a prefix of parameter names",
                    "a prefix that no parameter has",
                ));
            }
            let adapts = matches!(policy, TrainPolicy::Lora { .. });
            if adapts && !below().any(|name| is_adapter(name)) {
                let expected =
                    "frozen or full: only the language model's q_proj and v_proj take adapters";
                return Err(invalid(expected, "lora"));
            }
        }
        Ok(module.map(&mut Applier {
            policies: self,
            path: Path::default(),
        }))
    }

    /// Whether the parameter of this name is a weight that does not train: it is the same in every checkpoint of a run.
    pub fn freezes(&self, name: &str) -> bool {
        !self.trains(name) && !is_constant(name)
    }

    /// Whether the parameter of this name trains.
    pub fn trains(&self, name: &str) -> bool {
        match self.of(name) {
            TrainPolicy::Frozen => false,
            TrainPolicy::Lora { .. } => is_adapter(name),
            TrainPolicy::Full => !is_constant(name),
        }
    }
}

/// The key of a prefix's policy in settings.
fn key(prefix: &str) -> String {
    if prefix.contains('.') {
        format!("train.policy.\"{prefix}\"")
    } else {
        format!("train.policy.{prefix}")
    }
}

/// Whether any parameter of the module asks for a gradient; if none does, the module can run without a tape.
pub fn trains<M: Module>(module: &M) -> bool {
    struct Asks(bool);
    impl ModuleVisitor for Asks {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.val().is_require_grad();
        }
    }
    let mut asks = Asks(false);
    module.visit(&mut asks);
    asks.0
}

struct Applier<'a> {
    policies: &'a TrainPolicies,
    path: Path,
}

impl ModuleMapper for Applier<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (name, _) = self.path.checkpoint_name();
        param.set_require_grad(self.policies.trains(&name))
    }
}

/// Whether it is a constant of the model rather than a weight.
pub(crate) fn is_constant(name: &str) -> bool {
    CONSTANTS.iter().any(|constant| name.ends_with(constant))
}

/// Whether the parameter is a factor of a low-rank adapter.
pub fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")
}

fn is_below(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{Linear, LinearConfig};
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Small {
        visual: Linear,
        model: Vec<Linear>,
    }

    fn small(device: &Device) -> Small {
        Small {
            visual: LinearConfig::new(2, 3).init(device),
            model: vec![
                LinearConfig::new(3, 3).init(device).with_lora(1, 2.0),
                LinearConfig::new(3, 1).init(device),
            ],
        }
    }

    fn policies() -> TrainPolicies {
        let lora = TrainPolicy::Lora {
            rank: 1,
            alpha: 2.0,
        };
        TrainPolicies::new([
            ("visual".to_owned(), TrainPolicy::Frozen),
            ("model".to_owned(), lora),
            ("model.1".to_owned(), TrainPolicy::Full),
        ])
    }

    #[test]
    fn the_longest_prefix_decides() {
        let policies = TrainPolicies::paper();
        assert_eq!(policies.of("model.embed_tokens.weight"), TrainPolicy::Full);
        assert_eq!(
            policies.of("model.layers.0.mlp.up_proj.weight").name(),
            "lora"
        );
        assert_eq!(policies.of("modelling.weight"), TrainPolicy::Full);
        assert_eq!(policies.of("seg_model.no_mem_embed"), TrainPolicy::Frozen);
        assert_eq!(policies.of("lm_head.weight"), TrainPolicy::Full);
    }

    #[test]
    fn counts_tell_frozen_lora_and_full_apart() {
        let counts = policies().counts(&small(&Device::default()), 1);
        let expected = [
            ModuleCount {
                module: "visual".into(),
                n_values: 9,
                n_full: 0,
                n_lora: 0,
            },
            ModuleCount {
                module: "model".into(),
                n_values: 22,
                n_full: 4,
                n_lora: 6,
            },
        ];
        assert_eq!(counts, expected);
        assert_eq!(counts[1].n_frozen(), 12);
    }

    #[test]
    fn gradients_are_asked_for_exactly_where_wanted() {
        let device = Device::default().autodiff();
        let module = policies().apply(small(&device)).unwrap();
        assert!(!trains(&module.visual));
        assert!(trains(&module.model[1]));
        let listed = policies().parameters(&module);
        let trained: Vec<&str> = listed
            .iter()
            .filter(|p| p.trains)
            .map(|p| p.name.as_str())
            .collect();
        assert_eq!(
            trained,
            [
                "model.0.lora_A.weight",
                "model.0.lora_B.weight",
                "model.1.weight",
                "model.1.bias"
            ]
        );
        assert!(!module.model[0].weight.is_require_grad());
        assert!(module.model[0].lora_a.as_ref().unwrap().is_require_grad());
    }

    #[test]
    fn a_prefix_of_nothing_and_adapters_where_none_are_get_refused() {
        let device = Device::default();
        let check = |prefix: &str, policy: TrainPolicy, expected: &str| {
            let policies = TrainPolicies::new([(prefix.to_owned(), policy)]);
            let error = policies.apply(small(&device)).unwrap_err().to_string();
            assert_eq!(error, expected);
        };
        check(
            "vision",
            TrainPolicy::Frozen,
            "invalid train.policy.vision: expected a prefix of parameter names, found a prefix that no parameter has",
        );
        check(
            "visual",
            TrainPolicy::Lora {
                rank: 1,
                alpha: 1.0,
            },
            "invalid train.policy.visual: expected frozen or full: only the language model's q_proj and v_proj take \
             adapters, found lora",
        );
    }
}
