//! From the place of a parameter in the module tree to its name and layout in a PyTorch checkpoint.
//!
//! Field names are the checkpoint's, so a name is the path of fields. What differs: Burn's norms say `gamma` and
//! `beta`, PyTorch `weight` and `bias`; a [`Linear`](crate::linear::Linear) holds `[in, out]`, PyTorch `[out, in]`;
//! an enum adds its variant to the path, PyTorch has nothing there; PEFT names adapters `lora_A.weight`. A field
//! `_3` stands for index 3 of an `nn.Sequential` whose other members hold no parameters. Qwen2-VL's parts lie on the
//! checkpoint's first level and SAM2's beside the projector, so our fields `mllm` and `sam2` around them have no name.

use burn::tensor::TensorData;

/// How a tensor lies in a checkpoint compared with the parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Same axes.
    Same,
    /// The two axes of a matrix are exchanged.
    Transposed,
}

/// Fields of ours that the checkpoint does not have: the type that holds them, and their name.
const UNNAMED: [(&str, &str); 2] = [("Struct:Lavida", "mllm"), ("Struct:SegModel", "sam2")];

/// Path of the walk through a module: field names, each with the type of the module that holds it.
#[derive(Debug, Default)]
pub(crate) struct Path(Vec<(String, String)>);

impl Path {
    /// Goes into field `name` of a module of type `container`.
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        self.0.push((name.to_owned(), container.to_owned()));
    }

    /// Leaves the field entered last.
    pub(crate) fn exit(&mut self) {
        self.0.pop();
    }

    /// The path as Burn writes it into its own files.
    pub(crate) fn burn_name(&self) -> String {
        let fields: Vec<&str> = self.0.iter().map(|(field, _)| field.as_str()).collect();
        fields.join(".")
    }

    /// Checkpoint name and layout of the parameter at this path.
    pub(crate) fn checkpoint_name(&self) -> (String, Layout) {
        let mut name = String::new();
        let mut layout = Layout::Same;
        for (depth, (field, container)) in self.0.iter().enumerate() {
            let is_unnamed = container.starts_with("Enum:")
                || UNNAMED.contains(&(container.as_str(), field.as_str()));
            if is_unnamed {
                continue;
            }
            let is_parameter = depth + 1 == self.0.len();
            let part = match field.as_str() {
                "gamma" if is_parameter && container.ends_with("Norm") => "weight",
                "beta" if is_parameter && container.ends_with("Norm") => "bias",
                "weight" if is_parameter && container == "Struct:Linear" => {
                    layout = Layout::Transposed;
                    "weight"
                }
                "lora_a" | "lora_b" if is_parameter && container == "Struct:Linear" => {
                    layout = Layout::Transposed;
                    if field == "lora_a" {
                        "lora_A.weight"
                    } else {
                        "lora_B.weight"
                    }
                }
                other => sequential_index(other).unwrap_or(other),
            };
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(part);
        }
        (name, layout)
    }
}

/// `_3` → `3`.
fn sequential_index(field: &str) -> Option<&str> {
    let digits = field.strip_prefix('_')?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(digits)
}

/// The matrix with its axes exchanged, as contiguous values.
///
/// # Shapes
///
/// - matrix: `[R, C]`
/// - output: `[C, R]`
pub(crate) fn transpose(matrix: TensorData) -> TensorData {
    let (bytes, shape, dtype) = matrix.into_parts();
    let [rows, columns] = shape.dims();
    let size = dtype.size();
    let mut transposed = vec![0u8; bytes.len()];
    // Tiles keep both sides of the copy in cache: lm_head alone is 2 GB at real size.
    const TILE: usize = 32;
    for row_start in (0..rows).step_by(TILE) {
        for column_start in (0..columns).step_by(TILE) {
            for row in row_start..(row_start + TILE).min(rows) {
                for column in column_start..(column_start + TILE).min(columns) {
                    let from = (row * columns + column) * size;
                    let to = (column * rows + row) * size;
                    transposed[to..to + size].copy_from_slice(&bytes[from..from + size]);
                }
            }
        }
    }
    TensorData::from_bytes_vec(transposed, [columns, rows], dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &[(&str, &str)], expected: (&str, Layout)) {
        let mut walk = Path::default();
        for (name, container) in path {
            walk.enter(name, container);
        }
        let (name, layout) = walk.checkpoint_name();
        assert_eq!((name.as_str(), layout), expected);
    }

    #[test]
    fn names_are_the_checkpoints() {
        check(
            &[
                ("mlp", "Struct:Block"),
                ("layers", "Struct:Mlp"),
                ("0", "Vec"),
                ("weight", "Struct:Linear"),
            ],
            ("mlp.layers.0.weight", Layout::Transposed),
        );
        check(
            &[("norm1", "Struct:Block"), ("gamma", "Struct:LayerNorm")],
            ("norm1.weight", Layout::Same),
        );
        check(
            &[("norm", "Struct:Model"), ("gamma", "Struct:RmsNorm")],
            ("norm.weight", Layout::Same),
        );
        check(
            &[
                ("output_upscaling", "Struct:Decoder"),
                ("1", "Vec"),
                ("Norm", "Enum:Upscale"),
                ("beta", "Struct:LayerNorm"),
            ],
            ("output_upscaling.1.bias", Layout::Same),
        );
        check(
            &[
                ("mask_downscaling", "Struct:Encoder"),
                ("_3", "Struct:Down"),
                ("weight", "Struct:Conv2d"),
            ],
            ("mask_downscaling.3.weight", Layout::Same),
        );
        check(
            &[("q_proj", "Struct:Attention"), ("lora_a", "Struct:Linear")],
            ("q_proj.lora_A.weight", Layout::Transposed),
        );
    }

    #[test]
    fn transposing_exchanges_the_axes() {
        let values: Vec<f32> = (0..35 * 70).map(|value| value as f32).collect();
        let transposed = transpose(TensorData::new(values, [35, 70]));
        assert_eq!(transposed.shape().as_slice(), [70, 35]);
        let found = transposed.as_slice::<f32>().unwrap();
        assert!((0..70).all(|row| {
            (0..35).all(|column| found[row * 35 + column] == (column * 70 + row) as f32)
        }));
    }
}
