//! A check that a cubin is whole before the driver sees it: the driver takes a bare pointer and believes the image's own
//! offsets, so a truncated one would make it read past the end.

/// Why `image` is not a whole 64-bit little-endian CUDA ELF image, if it is not.
pub(super) fn check(image: &[u8]) -> Result<(), String> {
    let u16_at = |at: usize| image.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let u64_at = |at: usize| {
        let bytes: [u8; 8] = image.get(at..at.checked_add(8)?)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let u32_at = |at: usize| {
        let bytes: [u8; 4] = image.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let truncated = || format!("it is cut short at {} bytes", image.len());
    let inside = |offset: Option<usize>, len: Option<usize>| match (offset, len) {
        (Some(offset), Some(len)) => offset.checked_add(len).is_some_and(|end| end <= image.len()),
        _ => false,
    };

    if image.len() < 64 {
        return Err(truncated());
    }
    // Magic, ELFCLASS64, ELFDATA2LSB; then e_machine EM_CUDA.
    if image[..6] != *b"\x7fELF\x02\x01" || u16_at(18) != Some(190) {
        return Err("it is no CUDA ELF image".to_owned());
    }
    // (table offset, entry size, entries) of program headers and of section headers.
    let tables = [(u64_at(32), u16_at(54), u16_at(56), 56), (u64_at(40), u16_at(58), u16_at(60), 64)];
    for (index, (offset, size, count, least)) in tables.into_iter().enumerate() {
        let (Some(offset), Some(size), Some(count)) = (offset, size.map(usize::from), count.map(usize::from)) else {
            return Err(truncated());
        };
        if count == 0 {
            continue;
        }
        if size < least || !inside(Some(offset), Some(size * count)) {
            return Err(truncated());
        }
        for entry in (0..count).map(|entry| offset + entry * size) {
            let whole = if index == 0 {
                inside(u64_at(entry + 8), u64_at(entry + 32))
            } else {
                // SHT_NULL and SHT_NOBITS have no bytes in the file.
                matches!(u32_at(entry + 4), Some(0 | 8)) || inside(u64_at(entry + 24), u64_at(entry + 32))
            };
            if !whole {
                return Err(truncated());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    /// A header, one program header, and two section headers whose second points at the last 8 bytes.
    fn image() -> Vec<u8> {
        let mut image = vec![0u8; 64 + 56 + 2 * 64 + 8];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(18, &190u16.to_le_bytes());
        put(32, &64u64.to_le_bytes());
        put(40, &120u64.to_le_bytes());
        for (at, value) in [(54, 56u16), (56, 1), (58, 64), (60, 2)] {
            put(at, &value.to_le_bytes());
        }
        put(64 + 8, &248u64.to_le_bytes());
        put(64 + 32, &8u64.to_le_bytes());
        put(184 + 4, &1u32.to_le_bytes());
        put(184 + 24, &248u64.to_le_bytes());
        put(184 + 32, &8u64.to_le_bytes());
        image
    }

    /// NVRTC's own images must pass, or nothing would load; each cut of one must not.
    #[test]
    fn real_cubins_pass_and_cut_ones_do_not() {
        use crate::{CompileRequest, Compiler, Home, Nvrtc, setup};
        let home = Home::from_env().unwrap();
        let nvrtc = Nvrtc::discover(&home).unwrap_or_else(|_| {
            setup::setup(&home, |_| {}).unwrap();
            Nvrtc::discover(&home).unwrap()
        });
        let source = "extern \"C\" __global__ void k(float* x) { __shared__ float s[9]; s[0] = x[1]; x[0] = s[0]; }";
        for arch in ["sm_75", "sm_90a", "sm_100", "sm_120"] {
            let request = CompileRequest {
                name: "k".to_owned(),
                source: source.to_owned(),
                arch: arch.to_owned(),
                options: Vec::new(),
                line_info: false,
            };
            let cubin = Compiler::new(&nvrtc).compile(&request).unwrap().cubin;
            assert_eq!(check(&cubin), Ok(()), "{arch}");
            for len in 0..cubin.len() {
                assert!(check(&cubin[..len]).is_err(), "{arch} cut to {len} of {}", cubin.len());
            }
        }
    }

    #[test]
    fn whole_images_pass_and_cut_ones_do_not() {
        let image = image();
        assert_eq!(check(&image), Ok(()));
        for len in 0..image.len() {
            assert!(check(&image[..len]).is_err(), "cut to {len}");
        }
        for at in [32, 40, 54, 58, 64 + 8, 64 + 32, 184 + 24, 184 + 32] {
            let mut odd = image.clone();
            odd[at..at + 2].copy_from_slice(&[0xff, 0xff]);
            assert!(check(&odd).is_err(), "field at {at}");
        }
        let mut host = image;
        host[18] = 62;
        assert!(check(&host).unwrap_err().contains("no CUDA ELF"));
    }
}
