use super::*;
use burn::tensor::{Device, Distribution, FloatDType, TensorData, Tolerance, activation};
use proptest::prelude::*;

fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Attention as Burn composes it, the truth: shared heads are repeated, the mask is added to the scores.
fn composed(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, mask: &AttentionMask) -> Tensor<4> {
    let [batch, n_heads, n_queries, d_head] = query.dims();
    let [_, n_kv_heads, n_keys, _] = key.dims();
    let repeated = |heads: Tensor<4>| {
        let [_, _, _, width] = heads.dims();
        let n_repeats = n_heads / n_kv_heads;
        heads
            .reshape([batch, n_kv_heads, 1, n_keys, width])
            .expand([batch, n_kv_heads, n_repeats, n_keys, width])
            .reshape([batch, n_heads, n_keys, width])
    };
    let (mut penalty, mut kept) = (Vec::new(), Vec::new());
    for entry in 0..batch {
        for query in 0..n_queries {
            let readable = mask.readable(entry, query, n_keys);
            penalty
                .extend((0..n_keys).map(|key| if readable.contains(&key) { 0.0 } else { -1e30 }));
            kept.push(if readable.is_empty() { 0f32 } else { 1.0 });
        }
    }
    let device = query.device();
    let tensor = |values: Vec<f32>, width: usize| {
        Tensor::<4>::from_data(
            TensorData::new(values, [batch, 1, n_queries, width]),
            &device,
        )
    };
    let scores = query.matmul(repeated(key).swap_dims(2, 3)) / (d_head as f64).sqrt();
    let weights = activation::softmax(scores + tensor(penalty, n_keys), 3);
    weights.matmul(repeated(value)) * tensor(kept, 1)
}

type Attend = dyn Fn(Tensor<4>, Tensor<4>, Tensor<4>, &AttentionMask) -> Tensor<4>;

/// Value and all gradients.
fn results(attend: &Attend, inputs: [Tensor<4>; 3], mask: &AttentionMask) -> Vec<TensorData> {
    let inputs = inputs.map(|tensor| tensor.autodiff().require_grad());
    let [query, key, value] = inputs.clone();
    let out = attend(query, key, value, mask);
    let [batch, heads, queries, width] = out.dims();
    let pull = Tensor::arange(0..(batch * heads * queries * width) as i64, &out.device());
    let pull = (pull.float() * 0.7).sin().reshape(out.shape());
    let gradients = (out.clone() * pull).sum().backward();
    let of_inputs = inputs
        .iter()
        .map(|tensor| tensor.grad(&gradients).expect("tracked").into_data());
    std::iter::once(out.without_autodiff().into_data())
        .chain(of_inputs)
        .collect()
}

#[track_caller]
fn check(inputs: [Tensor<4>; 3], mask: &AttentionMask) {
    let found = results(&attention, inputs.clone(), mask);
    let expected = results(&composed, inputs, mask);
    for (found, expected) in found.iter().zip(&expected) {
        found.assert_approx_eq::<f32>(expected, Tolerance::absolute(2e-5));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn attention_equals_its_parts(
        batch in 1usize..3, kv_heads in 1usize..3, sharing in 1usize..4, queries in 1usize..60, keys in 1usize..70,
        width in 1usize..20, value_width in 1usize..40, causal in any::<bool>(),
        ranges in prop::option::of([any::<[u8; 2]>(), any::<[u8; 2]>()]), split in any::<bool>(), seed in any::<u16>(),
    ) {
        let device = Device::flex();
        device.seed(u64::from(seed));
        let keys = if causal { queries } else { keys };
        // Heads lie as a projection leaves them, or by themselves.
        let tokens = |n: usize, heads: usize, width: usize| if split {
            random([batch, n, heads, width], &device).swap_dims(1, 2)
        } else {
            random([batch, heads, n, width], &device)
        };
        let inputs = [
            tokens(queries, kv_heads * sharing, width),
            tokens(keys, kv_heads, width),
            tokens(keys, kv_heads, value_width),
        ];
        let mask = if causal { AttentionMask::causal() } else { AttentionMask::default() };
        // Empty ranges are among them.
        let range = |ends: [u8; 2]| {
            let [a, b] = ends.map(|end| usize::from(end) * (keys + 1) / 256);
            a.min(b)..a.max(b)
        };
        let mask = match ranges {
            Some(ranges) => mask.with_keys(ranges.map(range).into_iter().take(batch)),
            None => mask,
        };
        check(inputs, &mask);
    }
}

#[test]
fn many_queries_of_few_heads_equal_their_parts() {
    let device = Device::flex();
    device.seed(3);
    let tokens = |n: usize| random([1, n, 2, 24], &device).swap_dims(1, 2);
    check(
        [tokens(700), tokens(900), tokens(900)],
        &AttentionMask::default(),
    );
}

#[test]
fn causal_queries_of_several_blocks_equal_their_parts() {
    let device = Device::flex();
    device.seed(5);
    let tokens = |n_heads: usize| random([2, n_heads, 250, 8], &device);
    let mask = AttentionMask::causal().with_keys([0..250, 40..250]);
    check([tokens(6), tokens(2), tokens(2)], &mask);
}

#[test]
fn a_causal_query_reads_only_what_came_before() {
    let device = Device::flex();
    let [query, key, value] = [3, 3, 5].map(|width| random([2, 2, 6, width], &device));
    let found = attention(query, key, value.clone(), &AttentionMask::causal());
    let first = found.narrow(2, 0, 1).into_data();
    first.assert_eq(&value.narrow(2, 0, 1).into_data(), true);
}

#[test]
fn one_position_reads_itself() {
    let device = Device::flex();
    let [query, key, value] = [3, 3, 5].map(|width| random([2, 2, 1, width], &device));
    for mask in [AttentionMask::default(), AttentionMask::causal()] {
        check([query.clone(), key.clone(), value.clone()], &mask);
        let found = attention(query.clone(), key.clone(), value.clone(), &mask);
        found
            .into_data()
            .assert_eq(&value.clone().into_data(), true);
    }
}

#[test]
fn narrow_numbers_are_composed() {
    let device = Device::flex();
    device.seed(6);
    let tokens = |n: usize, heads: usize| random([1, heads, n, 8], &device);
    let (query, key, value) = (tokens(7, 4), tokens(7, 2), tokens(7, 2));
    let mask = AttentionMask::causal().with_keys(std::iter::once(2..7));
    let wide = results(
        &attention,
        [query.clone(), key.clone(), value.clone()],
        &mask,
    );
    let narrow = |query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, mask: &AttentionMask| {
        let [query, key, value] = [query, key, value].map(|x| x.cast(FloatDType::BF16));
        let out = attention(query, key, value, mask);
        assert_eq!(out.dtype(), DType::BF16);
        out.cast(FloatDType::F32)
    };
    let found = results(&narrow, [query, key, value], &mask);
    for (found, expected) in found.iter().zip(&wide) {
        found.assert_approx_eq::<f32>(expected, Tolerance::absolute(5e-2));
    }
}

#[test]
fn what_is_masked_weighs_nothing_and_gets_no_gradient() {
    let device = Device::flex();
    let value = Tensor::<4>::from_data([[[[f32::MAX, 4.0], [1.0, 2.0], [3.0, 6.0]]]], &device);
    let (query, key) = (random([1, 1, 2, 2], &device), random([1, 1, 3, 2], &device));
    let mask = AttentionMask::default().with_keys(std::iter::once(1..3));
    let found = results(&attention, [query, key, value], &mask);
    let out = found[0].try_to_vec::<f32>().unwrap();
    assert!(
        out.iter().all(|value| (1.0..=6.0).contains(value)),
        "{out:?}"
    );
    let of_value = found[3].try_to_vec::<f32>().unwrap();
    assert_eq!(of_value[..2], [0.0, 0.0]);
}

#[test]
fn a_query_without_keys_gets_zeros_and_gives_no_gradient() {
    let device = Device::flex();
    let [query, key, value] = [3, 3, 2].map(|width| random([1, 1, 3, width], &device));
    let mask = AttentionMask::causal().with_keys(std::iter::once(1..3));
    let found = results(&attention, [query, key, value], &mask);
    for (index, n_values) in [(0, 2), (1, 3)] {
        let values = found[index].try_to_vec::<f32>().unwrap();
        assert_eq!(values[..n_values], vec![0.0; n_values]);
        assert!(values[n_values..].iter().any(|value| *value != 0.0));
    }
}

#[test]
#[should_panic(expected = "3 key heads do not divide 4 query heads")]
fn heads_that_do_not_share_evenly_are_a_bug() {
    let device = Device::flex();
    let tokens = |n_heads: usize| random([1, n_heads, 2, 2], &device);
    attention(tokens(4), tokens(3), tokens(3), &AttentionMask::default());
}

#[test]
fn the_number_of_threads_and_the_tape_change_no_bit() {
    let device = Device::flex();
    device.seed(4);
    let tokens = |n: usize, heads: usize| random([1, n, heads, 16], &device).swap_dims(1, 2);
    let inputs = [tokens(1100, 4), tokens(1100, 2), tokens(1100, 2)];
    let mask = AttentionMask::causal();
    let with = |n_threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(n_threads)
            .build()
            .unwrap();
        pool.install(|| results(&attention, inputs.clone(), &mask))
    };
    let (one, three) = (with(1), with(3));
    for (one, three) in one.iter().zip(&three) {
        one.assert_eq(three, true);
    }
    let [query, key, value] = inputs.clone();
    let untaped = attention(query, key, value, &mask).into_data();
    untaped.assert_eq(&one[0], true);
}
