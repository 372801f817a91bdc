//! Weights: safetensors, `torch.save` files and burnpack.

use lavida_model::linear::{Linear, LinearConfig};
use lavida_model::weights::{
    TensorFiles, WeightError, read_carried, read_safetensors, write_safetensors,
};

use super::file;

/// A safetensors file, read whole and tensor by tensor.
pub fn safetensors(bytes: &[u8]) {
    if let Ok(tensors) = read_safetensors(bytes) {
        let written = write_safetensors(&tensors, None).expect("what was read can be written");
        let again = read_safetensors(&written).expect("what was written can be read");
        assert_eq!(again, tensors);
    }
    // Either answer is fine.
    let _ = read_carried(bytes);
    every_tensor(TensorFiles::open_safetensors(&file("a.safetensors", bytes)));
}

/// A `torch.save` file: a zip archive.
pub fn torch_zip(bytes: &[u8]) {
    every_tensor(TensorFiles::open_torch(&file("a.pt", bytes)));
}

/// The pickle in a `torch.save` file that is whole otherwise, with three storages of 64 bytes.
pub fn torch_pickle(bytes: &[u8]) {
    let storage: Vec<u8> = (0..64).collect();
    let entries = [
        ("a/data.pkl", bytes),
        ("a/byteorder", b"little"),
        ("a/data/0", &storage),
        ("a/data/1", &storage),
        ("a/data/2", &storage),
    ];
    every_tensor(TensorFiles::open_torch(&file("b.pt", &zip_of(&entries))));
}

/// A zip archive of entries that are not compressed.
pub fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for (name, bytes) in entries {
        let offset = file.len() as u32;
        let sizes = [rawzip::crc32(bytes), bytes.len() as u32, bytes.len() as u32];
        // Version, flags, method, time, date; sum and sizes; lengths of the name and of what is extra.
        let mut common = Vec::new();
        for short in [20u16, 0, 0, 0, 0] {
            common.extend(short.to_le_bytes());
        }
        sizes
            .iter()
            .for_each(|size| common.extend(size.to_le_bytes()));
        common.extend((name.len() as u16).to_le_bytes());
        common.extend(0u16.to_le_bytes());
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(name.as_bytes());
        file.extend(*bytes);
        directory.extend(b"PK\x01\x02");
        directory.extend(20u16.to_le_bytes());
        directory.extend(&common);
        // Comment, disk, attributes.
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (n_entries, offset) = (entries.len() as u16, file.len() as u32);
    let n_bytes = directory.len() as u32;
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(n_entries.to_le_bytes());
    file.extend(n_entries.to_le_bytes());
    file.extend(n_bytes.to_le_bytes());
    file.extend(offset.to_le_bytes());
    file.extend([0; 2]);
    file
}

/// A burnpack file of [`burnpack_module`].
pub fn burnpack(bytes: &[u8]) {
    let path = file("a.bpk", bytes);
    every_tensor(TensorFiles::open_burnpack(&path, &burnpack_module()));
}

/// The module that [`burnpack`] reads weights for.
pub fn burnpack_module() -> Linear {
    LinearConfig::new(3, 4).init(&Default::default())
}

fn every_tensor(files: Result<TensorFiles, WeightError>) {
    let Ok(files) = files else { return };
    for name in files.names() {
        files.shape(name).expect("a tensor that is listed");
    }
    // Either answer is fine.
    let _ = files.read_weights();
    let _ = files.read_carried();
}
