//! What was meant by a name that does not exist: by meaning, where other frameworks call it otherwise, else by spelling.

use super::{FUNCTIONS, Param, table};

/// Names of other frameworks, and what they are here: a method, or the code to write.
const MEANT: &[(&[&str], &str)] = &[
    (&["view", "view_as", "reshape_as", "contiguous_view"], "reshape"),
    (&["t", "mT", "swapaxes", "swapdims", "swap_axes", "swap_dims", "transpose_last"], "transpose"),
    (&["transpose_axes", "permute_axes", "movedim", "moveaxis", "rearrange"], "permute"),
    (&["broadcast", "expand_as", "broadcast_as", "broadcast_in_dim"], "broadcast_to"),
    (&["tile"], "repeat"),
    (&["repeat_each", "upsample_nearest"], "repeat_interleave"),
    (&["interpolate", "upsample", "resize_bilinear", "imresize"], "resize"),
    (&["mm", "bmm", "dot", "mv", "tensordot", "matmul_t", "addmm"], "matmul"),
    (&["dense", "fc", "linear_layer"], "linear"),
    (&["conv1d", "conv2d", "conv3d", "convolution", "conv_general_dilated"], "conv"),
    (&["conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "deconv", "conv2d_transpose"], "conv_transpose"),
    (&["max_pool1d", "max_pool2d", "max_pool3d", "maxpool", "max_pooling"], "max_pool"),
    (&["avg_pool1d", "avg_pool2d", "avg_pool3d", "avgpool", "mean_pool", "average_pool"], "avg_pool"),
    (&["adaptive_avg_pool2d", "adaptive_avg_pool1d", "global_average_pool"], "global_avg_pool"),
    (&["adaptive_max_pool2d", "adaptive_max_pool1d"], "global_max_pool"),
    (&["clip", "clamp_min", "clamp_max", "clip_by_value", "hardtanh"], "clamp"),
    (&["relu6"], "x.clamp(0.0, 6.0)"),
    (&["hardswish"], "hard_swish"),
    (&["hardsigmoid"], "hard_sigmoid"),
    (&["swish"], "silu"),
    (&["gelu_new", "gelu_fast", "gelu_approximate", "quick_gelu"], "gelu_tanh"),
    (&["masked_fill", "masked_fill_"], "mask.select(value, x)"),
    (&["where", "where_", "where_cond", "cond", "ifelse"], "condition.select(if_true, if_false)"),
    (&["scaled_dot_product_attention", "sdpa", "flash_attention", "multi_head_attention"], "attention"),
    (&["rotary", "rotary_embedding", "apply_rotary_emb", "apply_rotary_pos_emb", "rope_i"], "rope"),
    (&["layernorm", "normalize"], "layer_norm"),
    (&["rmsnorm"], "rms_norm"),
    (&["groupnorm"], "group_norm"),
    (&["batchnorm", "batch_norm1d", "batch_norm2d"], "batch_norm"),
    (&["instancenorm"], "instance_norm"),
    (&["norm", "l2_norm", "norm_l2"], "x.square().sum(axes).sqrt()"),
    (&["cat", "concatenate", "hstack", "vstack"], "concat([a, b], axis)"),
    (&["to", "astype", "as_type", "type_as", "convert"], "cast"),
    (&["half"], "x.cast(f16)"),
    (&["float"], "x.cast(f32)"),
    (&["double"], "x.cast(f64)"),
    (&["long"], "x.cast(i64)"),
    (&["int"], "x.cast(i32)"),
    (&["bfloat16"], "x.cast(bf16)"),
    (&["take", "index_select", "take_along_axis_rows"], "gather"),
    (&["take_along_dim", "take_along_axis"], "gather_elements"),
    (&["scatter_", "index_copy", "index_copy_", "index_put"], "scatter"),
    (&["scatter_add", "scatter_add_"], "x.scatter_elements(indices, updates, axis, reduce = \"add\")"),
    (&["index_add", "index_add_"], "x.scatter(indices, updates, axis, reduce = \"add\")"),
    (&["slice_scatter", "slice_set", "dynamic_update_slice", "slice_assign", "kv_update"], "update"),
    (&["narrow", "slice_axis", "dynamic_slice"], "x.slice(axis, start..end)"),
    (&["select_axis", "get", "at", "i"], "index"),
    (&["size", "shape", "len", "dims"], "x.dim(axis)"),
    (&["rank", "ndim"], "x.dim(axis)"),
    (&["split_with_sizes", "tensor_split"], "split"),
    (&["unbind", "unstack"], "chunk"),
    (&["max_keepdim", "max_dim", "reduce_max", "maximum_over"], "amax"),
    (&["min_keepdim", "min_dim", "reduce_min"], "amin"),
    (&["sum_keepdim", "sum_keep"], "x.sum(axes, keep = true)"),
    (&["mean_keepdim", "mean_keep"], "x.mean(axes, keep = true)"),
    (&["var_keep"], "x.var(axes, keep = true)"),
    (&["amax_keep"], "x.amax(axes, keep = true)"),
    (&["reduce_sum"], "sum"),
    (&["reduce_mean", "average"], "mean"),
    (&["maximum"], "max"),
    (&["minimum"], "min"),
    (&["log"], "ln"),
    (&["log1p"], "ln_1p"),
    (&["expm1"], "exp_m1"),
    (&["reciprocal", "inv"], "recip"),
    (&["pow", "power", "powi"], "powf"),
    (&["negative"], "neg"),
    (&["subtract"], "sub"),
    (&["multiply"], "mul"),
    (&["divide", "true_divide"], "div"),
    (&["fmod"], "rem"),
    (&["remainder", "mod", "floor_mod"], "modulo"),
    (&["logical_and", "bitwise_and"], "and"),
    (&["logical_or", "bitwise_or"], "or"),
    (&["logical_not", "bitwise_not"], "not"),
    (&["equal"], "eq"),
    (&["not_equal"], "ne"),
    (&["less", "less_than"], "lt"),
    (&["greater", "greater_than"], "gt"),
    (&["greater_equal"], "ge"),
    (&["less_equal"], "le"),
    (&["isnan"], "is_nan"),
    (&["isinf"], "is_infinite"),
    (&["logsumexp_dim", "log_sum_exp"], "logsumexp"),
    (&["sort", "argsort"], "topk"),
    (&["cum_sum"], "cumsum"),
    (&["ravel", "flatten_from"], "flatten"),
    (&["expand_dims", "newaxis"], "unsqueeze"),
    (&["quantize_per_tensor", "quantize_per_channel", "quantize_linear"], "quantize"),
    (&["dequant", "dequantize_linear"], "dequantize"),
    (&["reverse"], "flip"),
    (&["shift", "circshift"], "roll"),
    (&["detach", "contiguous", "to_device", "cuda", "cpu", "requires_grad"], "x"),
];

/// Names of options elsewhere, and what they are called here.
const OPTIONS: &[(&[&str], &str)] = &[
    (&["dim", "dims", "axes"], "axis"),
    (&["dim", "dims", "axis"], "axes"),
    (&["keepdim", "keepdims", "keep_dims", "keep_dim"], "keep"),
    (&["unbiased", "ddof"], "correction"),
    (&["stride"], "strides"),
    (&["padding", "pad", "pad_width"], "pads"),
    (&["dilation"], "dilations"),
    (&["group"], "groups"),
    (&["kernel_size", "kernel", "kernel_shape", "size"], "window"),
    (&["ceil_mode"], "ceil"),
    (&["size", "output_size", "shape"], "sizes"),
    (&["size"], "shape"),
    (&["scale_factor", "factor", "scale"], "scales"),
    (&["align_corners", "coordinate_transformation_mode"], "coordinates"),
    (&["nearest_mode"], "rounding"),
    (&["is_causal"], "causal"),
    (&["attn_mask", "attention_mask"], "mask"),
    (&["softcap", "soft_cap", "logits_soft_cap"], "cap"),
    (&["sliding_window", "left_window_size"], "window"),
    (&["softmax_scale", "sm_scale"], "scale"),
    (&["weight", "gamma"], "scale"),
    (&["beta"], "bias"),
    (&["epsilon"], "eps"),
    (&["min", "lo", "a_min"], "low"),
    (&["max", "hi", "a_max"], "high"),
    (&["negative_slope", "alpha"], "slope"),
    (&["zero", "zero_points"], "zero_point"),
    (&["block_size", "group_size"], "block"),
    (&["largest_first", "descending"], "largest"),
    (&["approximate"], "mode"),
    (&["repeats", "reps"], "times"),
    (&["shifts"], "shift"),
    (&["index"], "indices"),
    (&["src", "source", "values"], "updates"),
    (&["key", "k"], "keys"),
    (&["value", "v"], "values"),
    (&["ids"], "indices"),
    (&["p", "prob", "rate"], "p"),
    (&["w"], "weight"),
    (&["b"], "bias"),
];

/// `; did you mean ..?` for an unknown method, or nothing.
pub(super) fn method(name: &str) -> String {
    advice(name, methods())
}

/// The same for a free function, if something is meant by the name.
pub(crate) fn function(name: &str) -> Option<String> {
    let meant = MEANT.iter().find(|(names, _)| names.contains(&name))?;
    meant.1.contains('(').then(|| format!("; write `{}`", meant.1))
}

/// Names of all methods.
fn methods() -> impl Iterator<Item = &'static str> {
    table::GROUPS.iter().flat_map(|g| &g.methods).map(|m| m.name)
}

fn advice(name: &str, all: impl Iterator<Item = &'static str>) -> String {
    if let Some((_, meant)) = MEANT.iter().find(|(names, _)| names.contains(&name)) {
        return match *meant {
            "x" => "; it has no meaning in a graph, leave it out".to_owned(),
            code if code.contains(['(', '.']) => format!("; write `{code}`"),
            method => format!("; did you mean `{method}`?"),
        };
    }
    if FUNCTIONS.iter().any(|f| f.name == name) {
        return format!("; `{name}` is a function, not a method");
    }
    match nearest(name, all) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => "; docs/methods.md lists those there are".to_owned(),
    }
}

/// The option of these parameters that was meant.
pub(super) fn option(name: &str, params: &[Param]) -> Option<&'static str> {
    let has = |option: &str| params.iter().find(|p| p.name == option).map(|p| p.name);
    let meant = OPTIONS.iter().filter(|(names, _)| names.contains(&name)).find_map(|(_, option)| has(option));
    meant.or_else(|| nearest(name, params.iter().map(|p| p.name)))
}

/// The name that is closest, if it is close.
pub(crate) fn nearest(name: &str, all: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let best = all.map(|n| (edits(name, n), n)).min()?;
    (best.0 <= 1 + name.len() / 4).then_some(best.1)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{FUNCTIONS, MEANT, OPTIONS, edits, method, methods, nearest, table};
    use std::collections::BTreeSet;

    #[test]
    fn the_nearest_name_is_suggested_where_no_meaning_is_known() {
        assert_eq!((edits("kitten", "sitting"), edits("", "abc"), edits("abc", "abc")), (3, 3, 0));
        assert_eq!(nearest("sofmax", methods()), Some("softmax"));
        assert_eq!(nearest("frobnicate", methods()), None);
        assert_eq!(method("view"), "; did you mean `reshape`?");
    }

    #[test]
    fn what_is_suggested_exists_and_what_it_is_suggested_for_does_not() {
        let known: BTreeSet<&str> = methods().collect();
        let mut seen = BTreeSet::new();
        for (names, meant) in MEANT {
            let called = match meant.split_once('(') {
                Some((code, _)) => code.rsplit('.').next().unwrap(),
                None => meant,
            };
            let function = FUNCTIONS.iter().any(|f| f.name == called);
            assert!(known.contains(called) || function || ["x", "dim"].contains(&called), "{meant}");
            for name in *names {
                assert!(!known.contains(name), "`{name}` exists");
                assert!(seen.insert(name), "`{name}` is listed twice");
            }
        }
        let options: BTreeSet<&str> =
            table::GROUPS.iter().flat_map(|g| &g.methods).flat_map(|m| m.params).map(|p| p.name).collect();
        for (_, option) in OPTIONS {
            assert!(options.contains(option), "no method has an option `{option}`");
        }
    }
}
