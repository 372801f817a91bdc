//! The refer family: `refs(…).p` as Python 2 pickled them, masks in `instances.json`, pictures of COCO and SAIAPR TC-12. The
//! sentences are hand-written.

use std::path::Path;

use serde_json::{Value, json};

use super::pictures::{HEIGHT, SQUARE, WIDTH, jpeg, rle};
use super::{write, write_json};

/// All five sets.
pub fn refer_family(root: &Path) {
    let coco = |id: u32| format!("COCO_train2014_{id:012}.jpg");
    for id in 1..=3 {
        let picture = format!("images/mscoco/images/train2014/{}", coco(id));
        write(root, &picture, jpeg(id as u8));
        let picture = format!("images/saiapr_tc-12/0{id}/images/{id}.jpg");
        write(root, &picture, jpeg(10 + id as u8));
    }
    for (set, by) in [("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")] {
        let masks = instances(coco, json!([SQUARE]));
        write_json(root, &format!("{set}/instances.json"), &masks);
        let references = pickle(&references("train"));
        write(root, &format!("{set}/refs({by}).p"), references);
    }
    // A list of run lengths whose counts are text, as refCLEF has it.
    let masks = instances(|id| format!("{id}.jpg"), json!([rle([2, 10, 2, 10])]));
    write_json(root, "refclef/instances.json", &masks);
    write(root, "refclef/refs(unc).p", pickle(&references("train")));

    let masks = instances(coco, json!([SQUARE]));
    write_json(root, "annotations/instances_train2014.json", &masks);
    let mut references = references("train");
    let rows = references.as_array_mut().expect("a list");
    for row in rows.iter_mut() {
        row["ann_id"] = json!([row["ann_id"]]);
        row["category_id"] = json!([row["category_id"]]);
    }
    let nothing = json!({
        "ref_id": 9, "ann_id": [-1], "category_id": [-1], "image_id": 1, "file_name": coco(1), "split": "train",
        "sentences": [{ "sent": "the elephant", "raw": "The elephant", "sent_id": 90, "tokens": ["the", "elephant"] }],
        "sent_ids": [90],
    });
    rows.push(nothing);
    write_json(root, "grefcoco/grefs(unc).json", &references);
}

fn instances(name: impl Fn(u32) -> String, segmentation: Value) -> Value {
    let image =
        |id: u32| json!({ "id": id, "file_name": name(id), "width": WIDTH, "height": HEIGHT });
    let annotation = |id: u32| json!({ "id": 100 + id, "image_id": id, "category_id": 3, "iscrowd": 0, "segmentation": segmentation });
    json!({
        "images": (1..=3).map(image).collect::<Vec<_>>(),
        "annotations": (1..=3).map(annotation).collect::<Vec<_>>(),
        "categories": [{ "id": 3, "name": "car" }],
    })
}

fn references(split: &str) -> Value {
    let reference = |id: u32| {
        let sentence = |text: String, sent_id: u32| {
            let tokens: Vec<&str> = text.split(' ').collect();
            json!({ "sent": text, "raw": text.to_uppercase(), "sent_id": sent_id, "tokens": tokens })
        };
        json!({
            "ref_id": id, "ann_id": 100 + id, "category_id": 3, "image_id": id, "split": split,
            "file_name": format!("COCO_train2014_{id:012}_{}.jpg", 100 + id),
            "sent_ids": [2 * id, 2 * id + 1],
            "sentences": [sentence(format!("car {id}"), 2 * id), sentence(format!("the left car {id}"), 2 * id + 1)],
        })
    };
    (1..=3).map(reference).collect()
}

/// `pickle.dump(value, file, 0)` of Python 2: text is byte strings.
fn pickle(value: &Value) -> Vec<u8> {
    fn put(value: &Value, bytes: &mut Vec<u8>) {
        match value {
            Value::String(text) => bytes.extend(format!("S'{text}'\n").as_bytes()),
            Value::Array(items) => {
                bytes.extend(b"(l");
                for item in items {
                    put(item, bytes);
                    bytes.push(b'a');
                }
            }
            Value::Object(entries) => {
                bytes.extend(b"(d");
                for (key, value) in entries {
                    put(&Value::String(key.clone()), bytes);
                    put(value, bytes);
                    bytes.push(b's');
                }
            }
            number => bytes.extend(format!("I{number}\n").as_bytes()),
        }
    }
    let mut bytes = Vec::new();
    put(value, &mut bytes);
    bytes.push(b'.');
    bytes
}
