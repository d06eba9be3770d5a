/* Loads an engine, runs it on inputs that count up, and prints what comes out.
 *
 *   cargo build --release -p kiln-c && cp target/release/libkiln_c.so libkiln.so
 *   cc -Iinclude examples/c/run.c -L. -lkiln -Wl,-rpath,'$ORIGIN' -o run
 *   ./run model.kiln cpu
 */
#include <kiln.h>
#include <stdio.h>
#include <stdlib.h>

/* What an extent is that inputs decide. */
enum { EXTENT = 2 };

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, kiln_error());
    return EXIT_FAILURE;
}

static int bind_counting(KilnSession *session, const KilnPort *port) {
    int64_t shape[16];
    size_t elements = 1;
    if (port->dtype != KILN_F32 || port->rank > 16) {
        fprintf(stderr, "%s: this program feeds f32 of up to 16 axes\n", port->name);
        return EXIT_FAILURE;
    }
    for (size_t axis = 0; axis < port->rank; axis++) {
        shape[axis] = port->shape[axis] == KILN_SYMBOLIC ? EXTENT : port->shape[axis];
        elements *= (size_t)shape[axis];
    }
    size_t bytes = kiln_bytes(port->dtype, elements);
    float *data = malloc(bytes ? bytes : 1);
    for (size_t i = 0; data && i < elements; i++) data[i] = 0.25f * (float)i;
    int status = data ? kiln_bind(session, port->name, port->dtype, port->rank, shape, data, bytes) : KILN_ERROR;
    free(data);
    return status == KILN_OK ? EXIT_SUCCESS : failed(port->name);
}

static int print(KilnSession *session, const KilnPort *port) {
    int64_t shape[16];
    size_t elements = 1;
    if (port->dtype != KILN_F32 || port->rank > 16) {
        fprintf(stderr, "%s: this program prints f32 of up to 16 axes\n", port->name);
        return EXIT_FAILURE;
    }
    if (kiln_output_shape(session, port->name, port->rank, shape) != KILN_OK) return failed(port->name);
    printf("%s [", port->name);
    for (size_t axis = 0; axis < port->rank; axis++) {
        printf(axis ? ", %lld" : "%lld", (long long)shape[axis]);
        elements *= (size_t)shape[axis];
    }
    printf("]:");
    size_t bytes = kiln_bytes(port->dtype, elements);
    float *data = malloc(bytes ? bytes : 1);
    int status = data ? kiln_read(session, port->name, data, bytes) : KILN_ERROR;
    for (size_t i = 0; status == KILN_OK && i < elements; i++) printf(" %.9g", data[i]);
    printf("\n");
    free(data);
    return status == KILN_OK ? EXIT_SUCCESS : failed(port->name);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s ENGINE DEVICE\n", argv[0]);
        return EXIT_FAILURE;
    }
    KilnEngine *engine = kiln_engine_load(argv[1]);
    if (!engine) return failed("cannot load the engine");
    KilnSession *session = kiln_session_new(engine, argv[2]);
    int code = session ? EXIT_SUCCESS : failed("cannot use the device");
    KilnPort port;
    for (size_t i = 0; code == EXIT_SUCCESS && i < kiln_input_count(engine); i++)
        code = kiln_input(engine, i, &port) == KILN_OK ? bind_counting(session, &port) : failed("input");
    if (code == EXIT_SUCCESS && kiln_run(session) != KILN_OK) code = failed("cannot run");
    for (size_t i = 0; code == EXIT_SUCCESS && i < kiln_output_count(engine); i++)
        code = kiln_output(engine, i, &port) == KILN_OK ? print(session, &port) : failed("output");
    kiln_session_free(session);
    kiln_engine_free(engine);
    return code;
}
