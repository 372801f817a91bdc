//! The mask, IoU and object losses with their gradients, against `MultiStepMultiMasksAndIous`.

use burn::tensor::Tensor;
use lavida_train::losses::{IouSupervision, LossWeights, MaskPrediction, segmentation_losses};

use crate::support::{Fixture, FixtureTensors, assert_close_values, device};

#[test]
fn every_loss_equals_the_reference() {
    let fixture = Fixture::open("loss");
    let cases = fixture.setting("/cases").as_object().unwrap();
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    let expected = fixture.tensors("grads");
    let weight = |name: &str| fixture.number(&format!("/weights/{name}"));
    let weights = LossWeights {
        mask_focal: weight("loss_mask"),
        dice: weight("loss_dice"),
        iou: weight("loss_iou"),
        object: weight("loss_class"),
        ..LossWeights::default()
    };
    let device = device().autodiff();
    for (case, settings) in cases {
        let masks = inputs
            .floats::<4>(&format!("{case}.masks"), &device)
            .require_grad();
        let ious = inputs
            .floats::<2>(&format!("{case}.ious"), &device)
            .require_grad();
        let scores = inputs
            .floats::<1>(&format!("{case}.scores"), &device)
            .require_grad();
        let prediction = MaskPrediction {
            mask_logits: masks.clone(),
            iou_scores: ious.clone(),
            object_logits: scores.clone(),
        };
        let supervision = match settings["supervise_all_iou"].as_bool() {
            Some(true) => IouSupervision::All,
            _ => IouSupervision::Best,
        };
        let target = inputs.floats(&format!("{case}.target"), &device);
        let losses = segmentation_losses(prediction, target, &weights, supervision);
        let total = losses.weighted(&weights);
        assert_scalar(&outputs, &format!("{case}.loss_mask"), losses.mask_focal);
        assert_scalar(&outputs, &format!("{case}.loss_dice"), losses.dice);
        assert_scalar(&outputs, &format!("{case}.loss_iou"), losses.iou);
        assert_scalar(&outputs, &format!("{case}.loss_class"), losses.object);
        assert_scalar(&outputs, &format!("{case}.total_loss"), total.clone());

        let gradients = total.backward();
        expected.assert_close(&format!("{case}.masks"), masks.grad(&gradients).unwrap());
        expected.assert_close(&format!("{case}.ious"), ious.grad(&gradients).unwrap());
        expected.assert_close(&format!("{case}.scores"), scores.grad(&gradients).unwrap());
    }
}

/// Compares a loss with a scalar of the fixture.
#[track_caller]
pub fn assert_scalar(expected: &FixtureTensors, name: &str, found: Tensor<1>) {
    let found = found.into_data().try_to_vec::<f32>().unwrap();
    let expected = expected.data(name).clone().try_to_vec::<f32>().unwrap();
    assert_close_values(name, &found, &expected);
}
