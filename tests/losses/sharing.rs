//! An optimizer whose state the workers share updates as one that each has whole: not a bit depends on it, whatever the
//! number of workers, and its state goes into any other number of them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    thread,
};

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, TensorData},
};
use lavida_checkpoint::contents::Content;
use lavida_cluster::training::EngineReducer;
use lavida_collective::local::Local;
use lavida_model::weights::{self, CapturedFile};
use lavida_train::{
    optimizer::{AdamW, FlatGradients, TrainableParameter},
    reduce::{GradientReducer, StepShare},
    settings::OptimizerSettings,
};
use proptest::prelude::*;

const N_STEPS: u64 = 3;
const LEARNING_RATE: f64 = 0.1;

#[derive(Module, Debug)]
struct Parameters {
    values: Vec<Param<Tensor<1>>>,
}

/// What is trained, and which parameters take part in a step of a rank.
#[derive(Clone, Debug)]
struct Case {
    sizes: Vec<usize>,
    seed: u64,
    half_precision: bool,
}

/// What a rank ends with: values and moments by name, and the norms of the steps, as bits.
#[derive(Clone, Debug, PartialEq)]
struct Left {
    values: Vec<Vec<u32>>,
    state: BTreeMap<String, Vec<u32>>,
    norms: Vec<u64>,
}

/// Moments and values to begin with.
#[derive(Clone)]
struct Saved {
    values: Vec<Vec<f32>>,
    state: BTreeMap<String, TensorData>,
}

fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 22) as f32 - 2.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Whether a parameter takes part in a step of a rank.
fn takes_part(case: &Case, step: u64, rank: usize, parameter: usize) -> bool {
    let mix = case.seed ^ (step << 8) ^ ((rank as u64) << 16) ^ ((parameter as u64) << 24);
    !mix.wrapping_mul(0x9e37_79b9_7f4a_7c15).is_multiple_of(3)
}

fn work(
    case: &Case,
    reducer: &dyn GradientReducer,
    shared: bool,
    from: Option<Saved>,
) -> (Left, Saved) {
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let n_done = from.as_ref().map_or(0, |_| N_STEPS);
    let first = |i: usize, n: usize| match &from {
        Some(saved) => saved.values[i].clone(),
        None => random(case.seed + i as u64, n),
    };
    let values = case.sizes.iter().enumerate();
    let values = values.map(|(i, n)| Param::from_data(first(i, *n).as_slice(), &device));
    let mut module = Parameters {
        values: values.collect(),
    };
    let listed = module.values.iter().enumerate();
    let listed = listed.map(|(i, value)| TrainableParameter {
        id: value.id,
        name: format!("p{i}"),
        shape: vec![case.sizes[i]],
    });
    let mut optimizer = AdamW::new(OptimizerSettings::default(), listed.collect(), &plain);
    if shared {
        optimizer = optimizer.share(reducer);
    }
    if let Some(saved) = &from {
        optimizer.restore(N_STEPS, saved.state.clone()).unwrap();
    }
    if case.half_precision {
        optimizer.hold_masters(&module);
    }
    let mut norms = Vec::new();
    for step in n_done..n_done + N_STEPS {
        let taking = (0..case.sizes.len()).filter(|i| takes_part(case, step, reducer.rank(), *i));
        let terms = taking.map(|i| {
            let seed =
                case.seed ^ (step << 32) ^ ((reducer.rank() as u64) << 40) ^ ((i as u64) << 48);
            let gradient = random(seed, case.sizes[i]);
            let gradient = Tensor::<1>::from_data(gradient.as_slice(), &device);
            (module.values[i].val() * gradient).sum()
        });
        let zero = Tensor::<1>::zeros([1], &device).require_grad();
        let mut gradients = terms.fold(zero, |sum, term| sum + term).backward();
        let gradients = optimizer.flatten(&module, &mut gradients);
        let mut reached = optimizer.reached(&gradients);
        StepShare::default()
            .exchange(1, &mut reached, reducer)
            .unwrap();
        let (buckets, _) = gradients.into_parts();
        let sums = buckets.into_iter().enumerate();
        let sums = sums.map(|(b, sum)| optimizer.sum_over_workers(b, sum, reducer).unwrap());
        let gradients = FlatGradients::from_parts(sums.collect(), HashSet::new());
        let gradients = optimizer.with_reached(gradients, &reached);
        let updated = optimizer.update(module, gradients, LEARNING_RATE, reducer);
        let (now, norm) = updated.unwrap();
        module = now;
        norms.push(norm.to_bits());
    }
    let module = optimizer.with_exact_values(module, reducer).unwrap();
    let moments = CapturedFile::new(optimizer.captured(reducer).unwrap()).unwrap();
    let state = weights::read_safetensors(&Content::from(moments).into_bytes()).unwrap();
    let values = module.values.iter();
    let values: Vec<Vec<f32>> = values
        .map(|value| value.val().into_data().try_into_vec().unwrap())
        .collect();
    let left = Left {
        values: values.iter().map(|values| bits(values)).collect(),
        state: state
            .iter()
            .map(|(name, data)| (name.clone(), bits(data.as_slice::<f32>().unwrap())))
            .collect(),
        norms,
    };
    (left, Saved { values, state })
}

/// What every rank of a world ends with, which is the same.
fn learn(case: &Case, n: usize, shared: bool, from: Option<Saved>) -> (Left, Saved) {
    let ranks = Local::world(n);
    let mut left = thread::scope(|scope| {
        let ranks = ranks.into_iter().map(|rank| {
            let from = from.clone();
            scope.spawn(move || work(case, &EngineReducer(Arc::new(rank)), shared, from))
        });
        let ranks: Vec<_> = ranks.collect();
        let joined = ranks.into_iter().map(|rank| rank.join().unwrap());
        joined.collect::<Vec<_>>()
    });
    let (first, saved) = left.pop().unwrap();
    for (other, _) in left {
        assert_eq!(other, first);
    }
    (first, saved)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn shared_state_gives_the_bits_of_whole_state_and_goes_into_any_world(
        sizes in proptest::collection::vec(1usize..40, 1..5),
        seed: u64,
        half_precision: bool,
        n in 1usize..6,
        n_after in 1usize..6,
        shared_after: bool,
    ) {
        let case = Case { sizes, seed, half_precision };
        let (whole, saved) = learn(&case, n, false, None);
        let (shared, saved_shared) = learn(&case, n, true, None);
        prop_assert_eq!(&shared, &whole);
        let (after, _) = learn(&case, n_after, shared_after, Some(saved));
        let (after_shared, _) = learn(&case, n_after, !shared_after, Some(saved_shared));
        prop_assert_eq!(after, after_shared);
    }
}
