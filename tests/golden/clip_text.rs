//! CLIP's text tower against `ClipClassifier.encode_text`.

use lavida_model::config::ClipTextConfig;
use lavida_model::weights;

use crate::support::{Fixture, assert_close, device};

#[test]
fn text_features_equal_the_reference() {
    let fixture = Fixture::open("clip_text");
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    let device = device();
    let tower = ClipTextConfig {
        hidden_size: fixture.size("/config/hidden_size"),
        intermediate_size: fixture.size("/config/intermediate_size"),
        num_hidden_layers: fixture.size("/config/num_hidden_layers"),
        num_attention_heads: fixture.size("/config/num_attention_heads"),
        vocab_size: fixture.size("/config/vocab_size"),
        max_position_embeddings: fixture.size("/config/max_position_embeddings"),
        token_embedding_std: 0.02,
    }
    .init(&device);
    let tower = weights::load(tower, fixture.tensors("weights").all()).unwrap();

    let ids = inputs.ints::<2>("input_ids", &device);
    let embeddings = tower.text_model.embeddings.forward(ids.clone());
    outputs.assert_close("embeddings", embeddings);
    let found = tower.forward(ids);
    outputs.assert_close("pooled", found.pooled);

    // The reference also masks padding, so what it says behind the end of a text is of no interest.
    let valid = inputs.floats::<2>("attention_mask", &device);
    let [n_texts, n_positions] = valid.dims();
    let valid = valid.reshape([n_texts, n_positions, 1]);
    let expected = outputs.floats::<3>("last_hidden_state", &device) * valid.clone();
    assert_close(
        "last_hidden_state",
        (found.last_hidden_state * valid).into_data(),
        &expected.into_data(),
    );
}
