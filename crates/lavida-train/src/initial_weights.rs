//! What a trainer's weights are at its first step.

use bytes::Bytes;
use lavida_checkpoint::contents::{OPTIMIZER, WEIGHTS};
use lavida_data::{Error, Result};
use lavida_model::weights::{self, Tensors};

use crate::settings::Settings;

/// Weights a trainer starts with.
pub enum InitialWeights {
    /// Drawn from the seed.
    Random,
    /// Those of another run; the optimizer starts anew.
    Pretrained(Tensors),
    /// Those this run was at, with its moments.
    Resume {
        /// Under the checkpoint's names.
        weights: Tensors,
        /// `exp_avg.NAME` and `exp_avg_sq.NAME`
        moments: Tensors,
    },
}

impl InitialWeights {
    /// Those of the parts of a snapshot: the bytes of `weights.safetensors` with `frozen.safetensors`, where there is one, and of
    /// `optimizer.safetensors`.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when one is no safetensors file.
    pub fn resume<'a>(
        weights: impl IntoIterator<Item = &'a Bytes>,
        moments: &[u8],
    ) -> Result<Self> {
        let read = |bytes: &[u8], what: &str| {
            weights::read_safetensors(bytes).map_err(|e| Error::corrupt(what, "safetensors", e))
        };
        let mut all = Tensors::new();
        for part in weights {
            all.extend(read(part, WEIGHTS)?);
        }
        Ok(Self::Resume {
            weights: all,
            moments: read(moments, OPTIMIZER)?,
        })
    }
}

/// Gives a head of its own to weights whose head is their embedding, where the settings want one. Says whether it did.
pub fn untie(tensors: &mut Tensors, settings: &Settings) -> bool {
    const HEAD: &str = "lm_head.weight";
    if settings.model.language.tie_word_embeddings || tensors.contains_key(HEAD) {
        return false;
    }
    let embedding = tensors.get("model.embed_tokens.weight").cloned();
    embedding.is_some_and(|embedding| tensors.insert(HEAD.to_owned(), embedding).is_none())
}
