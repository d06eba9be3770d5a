/* Engines from C. Made from crates/kiln-c by `cargo xtask header`. */

#ifndef KILN_H
#define KILN_H

#include <stddef.h>
#include <stdint.h>

// An extent of a shape that is known when inputs are bound only.
#define KILN_SYMBOLIC -1

// A loaded engine. Any thread may use it.
typedef struct KilnEngine KilnEngine;

// An engine on a device. One thread at a time may use it.
typedef struct KilnSession KilnSession;

// Success, or not: then kiln_error() says what went wrong.
typedef int32_t KilnStatus;

// An element type. Elements are little-endian.
typedef uint32_t KilnDType;

// An input or output of an engine. What it points to lives as long as the engine.
typedef struct KilnPort {
  // Its name.
  const char *name;
  // Its element type.
  KilnDType dtype;
  // How many axes it has.
  size_t rank;
  // Their extents, outermost first; KILN_SYMBOLIC where inputs decide.
  const int64_t *shape;
} KilnPort;

// It worked.
#define KILN_OK 0

// It did not: see kiln_error().
#define KILN_ERROR 1

// IEEE binary64.
#define KILN_F64 0

// IEEE binary32.
#define KILN_F32 1

// IEEE binary16.
#define KILN_F16 2

// The upper half of a binary32.
#define KILN_BF16 3

// 8 bits, 4 of exponent, finite only.
#define KILN_F8E4M3 4

// 8 bits, 5 of exponent.
#define KILN_F8E5M2 5

// Signed, 64 bits.
#define KILN_I64 6

// Signed, 32 bits.
#define KILN_I32 7

// Signed, 16 bits.
#define KILN_I16 8

// Signed, 8 bits.
#define KILN_I8 9

// Unsigned, 64 bits.
#define KILN_U64 10

// Unsigned, 32 bits.
#define KILN_U32 11

// Unsigned, 16 bits.
#define KILN_U16 12

// Unsigned, 8 bits.
#define KILN_U8 13

// Signed, 4 bits: two a byte, the first in its low half.
#define KILN_I4 14

// Unsigned, 4 bits: two a byte, the first in its low half.
#define KILN_U4 15

// A byte that is 0 or 1.
#define KILN_BOOL 16

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What went wrong in this thread's last call that failed; an empty text if none has. It is valid until the thread's next call that fails.
const char *kiln_error(void);

// The version of this library, which is that of the engines that it loads.
const char *kiln_version(void);

// Loads an engine's file; null if that fails. The file must stay as it is until the engine and its sessions are freed: it is mapped, not read.
//
// # Safety
// `path` is a text that ends with 0.
struct KilnEngine *kiln_engine_load(const char *path);

// kiln_engine_load() for an engine that must be signed by the Ed25519 key whose public part is in the file `key` (PEM, DER, or its 32 bytes): the signature is checked before anything
// else of the engine is looked at.
//
// # Safety
// `path` and `key` are texts that end with 0.
struct KilnEngine *kiln_engine_load_signed(const char *path,
                                           const char *key);

// Lets go of an engine; its sessions stay. Null is nothing to do.
//
// # Safety
// `engine` is null, or what kiln_engine_load() gave and nobody uses any more.
void kiln_engine_free(struct KilnEngine *engine);

// How many inputs an engine has; 0 for null.
//
// # Safety
// `engine` is null or loaded.
size_t kiln_input_count(const struct KilnEngine *engine);

// How many outputs an engine has; 0 for null.
//
// # Safety
// `engine` is null or loaded.
size_t kiln_output_count(const struct KilnEngine *engine);

// Writes what the input of a number is to `port`.
//
// # Safety
// `engine` is null or loaded, `port` null or room for a port.
KilnStatus kiln_input(const struct KilnEngine *engine, size_t index, struct KilnPort *port);

// Writes what the output of a number is to `port`.
//
// # Safety
// `engine` is null or loaded, `port` null or room for a port.
KilnStatus kiln_output(const struct KilnEngine *engine, size_t index, struct KilnPort *port);

// Loads an engine on a device: `cpu`, `cpu:THREADS`, `cuda:N`, `sim:sm_80`; null if that fails.
//
// # Safety
// `engine` is null or loaded, `device` a text that ends with 0.
struct KilnSession *kiln_session_new(const struct KilnEngine *engine, const char *device);

// Lets go of a session. Null is nothing to do.
//
// # Safety
// `session` is null, or what kiln_session_new() gave and nobody uses any more.
void kiln_session_free(struct KilnSession *session);

// Copies the value of an input to the device, where it stays until the input is bound again.
//
// # Safety
// `session` is null or made, `name` a text that ends with 0, `shape` has `rank` extents, `data` has `bytes` bytes.
KilnStatus kiln_bind(struct KilnSession *session,
                     const char *name,
                     KilnDType dtype,
                     size_t rank,
                     const int64_t *shape,
                     const void *data,
                     size_t bytes);

// Runs the model on what is bound. On a GPU the work is queued: kiln_read() waits for it.
//
// # Safety
// `session` is null or made.
KilnStatus kiln_run(struct KilnSession *session);

// Writes the extents of an output of the last run to `shape`, of which there are `rank`, as many as the output has axes.
//
// # Safety
// `session` is null or made, `name` a text that ends with 0, `shape` room for `rank` extents.
KilnStatus kiln_output_shape(const struct KilnSession *session,
                             const char *name,
                             size_t rank,
                             int64_t *shape);

// Copies an output of the last run to `data`, whose bytes are exactly the output's.
//
// # Safety
// `session` is null or made, `name` a text that ends with 0, `data` room for `bytes` bytes.
KilnStatus kiln_read(struct KilnSession *session, const char *name, void *data, size_t bytes);

// The size in bytes of so many elements of a type; 0 for what is no type, or too many.
size_t kiln_bytes(KilnDType dtype, size_t elements);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* KILN_H */
