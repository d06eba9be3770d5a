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

// Another session of the same engine on the same device, for another thread: code and weights are in memory once, all else is each session's own.
// Null if that fails. They may be freed in any order.
//
// # Safety
// `session` is null or made, and no other thread uses it meanwhile.
struct KilnSession *kiln_session_fork(const struct KilnSession *session);

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

// Binds an input to memory of the caller's, without a copy: each run reads what is there when it is its turn. On a GPU it is device memory of the GPU's
// primary context at a multiple of 16 bytes, on the CPU memory of this process at a multiple of 64.
//
// # Safety
// `session` is null or made, `name` a text that ends with 0, `shape` has `rank` extents. Until the input is bound again or the session is freed, whenever the session is used and
// until its runs are done: `memory` has `bytes` bytes, initialized on the CPU, which nothing else writes.
KilnStatus kiln_bind_device(struct KilnSession *session,
                            const char *name,
                            size_t rank,
                            const int64_t *shape,
                            void *memory,
                            size_t bytes);

// From now on runs write an output to memory of the caller's, of a kind as for kiln_bind_device(), until kiln_unbind_output().
//
// # Safety
// `session` is null or made, `name` a text that ends with 0. Until the output is unbound, bound again or the session is freed, whenever the session is used and until its runs are done:
// `memory` has `bytes` bytes, initialized on the CPU, which nothing else uses.
KilnStatus kiln_bind_output(struct KilnSession *session,
                            const char *name,
                            void *memory,
                            size_t bytes);

// Takes the memory of an output back: runs write it to memory of the session's own again.
//
// # Safety
// `session` is null or made, `name` a text that ends with 0.
KilnStatus kiln_unbind_output(struct KilnSession *session, const char *name);

// Runs the model on what is bound. On a GPU the run is queued: kiln_read() and kiln_synchronize() wait for it, and report
// what goes wrong in it.
//
// # Safety
// `session` is null or made.
KilnStatus kiln_run(struct KilnSession *session);

// Waits for all runs that are queued.
//
// # Safety
// `session` is null or made.
KilnStatus kiln_synchronize(struct KilnSession *session);

// Writes 1 to `done` if all runs that are queued are done, else 0. Does not wait.
//
// # Safety
// `session` is null or made, `done` null or room for an int32_t.
KilnStatus kiln_is_done(struct KilnSession *session, int32_t *done);

// The next runs wait on the GPU for what is queued by now on `stream`, a CUstream or cudaStream_t. Does not wait itself.
//
// # Safety
// `session` is null or made, `stream` null (the legacy default stream) or a stream of the primary context of the session's GPU.
KilnStatus kiln_wait_for_stream(struct KilnSession *session,
                                void *stream);

// What is queued from now on on `stream` waits on the GPU for the runs that are queued by now. Does not wait itself.
//
// # Safety
// As for kiln_wait_for_stream().
KilnStatus kiln_hold_stream(struct KilnSession *session, void *stream);

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
