//! Arguments that several commands take.

use clap::ValueEnum;
use lavida_model::precision::Precision;

/// Number formats of weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Dtype {
    /// 4 bytes a value, exact
    F32,
    /// 2 bytes a value, three digits
    Bf16,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// Reads a whole number of at least `least`.
pub fn at_least(least: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse::<usize>() {
        Ok(number) if number >= least => Ok(number),
        _ => Err(format!("expected a whole number of at least {least}")),
    }
}
