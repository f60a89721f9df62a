/* A stand-in for NVIDIA's libnvidia-ml.so.1, with the GPUs that a text file describes.
 *
 * The file is named by STUB_NVML_SCRIPT and read again at every call, so that a test can change the
 * machine under a running process. Its lines (build.py writes them):
 *
 *     init CODE                         what initialising answers (0: success)
 *     epoch N                           a new number forgets that the library was initialised
 *     call FUNCTION CODE HANG_S         what a function answers, and how long it takes, for every GPU
 *     gpu I KEY VALUE                   uuid name total free reserved (MiB) temp util throttle mig
 *     gpu I call FUNCTION CODE HANG_S   the same for one GPU; FUNCTION may be *
 *     gpu I process PID MB              a process that holds memory; MB below 0: not told
 *     instance I J KEY VALUE            a MIG instance of GPU I: uuid name total free reserved
 *
 * What the file does not say is answered with NOT_SUPPORTED, as cards that lack a sensor do. A GPU that
 * was reported lost stays lost until the library was shut down as often as initialised, and initialised again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4,
       NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, LOST = 15 };
enum { MAX_GPUS = 8, MAX_INSTANCES = 7, MAX_CALLS = 16, MAX_PROCESSES = 16, MIB = 1 << 20 };

typedef unsigned int uint;
typedef unsigned long long ull;

typedef struct { char function[64]; int code; double hang_s; } Call;
typedef struct { uint pid; long long mb; } Process;

typedef struct Device {
    int gpu, instance;                  /* instance is -1 for a whole GPU */
    int exists;
    char uuid[96], name[96];
    long long total, free, reserved, temp, util, throttle, mig;   /* -1: not told */
    Call calls[MAX_CALLS];
    int call_count;
    Process processes[MAX_PROCESSES];
    int process_count;
} Device;

typedef struct { char bus_id_legacy[16]; uint domain, bus, device, pci_device_id, pci_subsystem_id; char bus_id[32]; } Pci;
typedef struct { ull total, free, used; } Memory;
typedef struct { uint version; ull total, reserved, free, used; } MemoryV2;
typedef struct { uint gpu, memory; } Utilization;
typedef struct { uint counts[8]; ull memory_mb; } Attributes;
typedef struct { uint pid; ull used; uint gpu_instance, compute_instance; } ProcessInfo;

static Device gpus[MAX_GPUS];
static Device instances[MAX_GPUS][MAX_INSTANCES];
static Call calls[MAX_CALLS];
static int call_count, init_code, epoch, init_epoch, init_count;
static int was_lost[MAX_GPUS];

/* ---- the script ---- */

static void clear(Device *device, int gpu, int instance) {
    memset(device, 0, sizeof *device);
    device->gpu = gpu;
    device->instance = instance;
    device->total = device->free = device->reserved = -1;
    device->temp = device->util = device->throttle = device->mig = -1;
}

static void read_value(Device *device, const char *key, const char *value) {
    struct { const char *key; long long *number; } numbers[] = {
        {"total", &device->total}, {"free", &device->free}, {"reserved", &device->reserved},
        {"temp", &device->temp}, {"util", &device->util}, {"throttle", &device->throttle}, {"mig", &device->mig}};
    device->exists = 1;
    if (!strcmp(key, "uuid")) snprintf(device->uuid, sizeof device->uuid, "%s", value);
    if (!strcmp(key, "name")) snprintf(device->name, sizeof device->name, "%s", value);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strcmp(key, numbers[i].key)) *numbers[i].number = strtoll(value, NULL, 0);
}

static void read_call(Call *list, int *count, const char *text) {
    Call *call = &list[*count];
    if (*count < MAX_CALLS && sscanf(text, "%63s %d %lf", call->function, &call->code, &call->hang_s) == 3)
        ++*count;
}

static void read_gpu_line(Device *device, const char *rest) {
    char key[32] = "";
    int at = 0;
    sscanf(rest, "%31s %n", key, &at);
    if (!strcmp(key, "call")) {
        read_call(device->calls, &device->call_count, rest + at);
    } else if (!strcmp(key, "process") && device->process_count < MAX_PROCESSES) {
        Process *process = &device->processes[device->process_count++];
        sscanf(rest + at, "%u %lld", &process->pid, &process->mb);
    } else {
        read_value(device, key, rest + at);
    }
}

static void read_script(void) {
    const char *path = getenv("STUB_NVML_SCRIPT");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    call_count = init_code = epoch = 0;
    for (int i = 0; i < MAX_GPUS; i++) {
        clear(&gpus[i], i, -1);
        for (int j = 0; j < MAX_INSTANCES; j++) clear(&instances[i][j], i, j);
    }
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        int i = 0, j = 0, at = 0;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "gpu %d %n", &i, &at) == 1 && at && i >= 0 && i < MAX_GPUS)
            read_gpu_line(&gpus[i], line + at);
        else if (sscanf(line, "instance %d %d %n", &i, &j, &at) == 2 && at && i < MAX_GPUS && j < MAX_INSTANCES)
            read_gpu_line(&instances[i][j], line + at);
        else if (!strncmp(line, "call ", 5)) read_call(calls, &call_count, line + 5);
        else if (sscanf(line, "init %d", &init_code) != 1) sscanf(line, "epoch %d", &epoch);
    }
    fclose(file);
}

/* ---- what every function does first ---- */

static int scripted(const Call *list, int count, const char *function) {
    for (int i = 0; i < count; i++) {
        if (strcmp(list[i].function, function) && strcmp(list[i].function, "*")) continue;
        struct timespec pause = {(time_t)list[i].hang_s, (long)((list[i].hang_s - (time_t)list[i].hang_s) * 1e9)};
        nanosleep(&pause, NULL);
        if (list[i].code) return list[i].code;
    }
    return SUCCESS;
}

static int enter(const char *function) {
    read_script();
    if (!init_count || init_epoch != epoch) return UNINITIALIZED;
    return scripted(calls, call_count, function);
}

static int enter_gpu(const char *function, int gpu) {
    int code = enter(function);
    if (code == SUCCESS) code = scripted(gpus[gpu].calls, gpus[gpu].call_count, function);
    if (code == LOST) was_lost[gpu] = 1;
    return code == SUCCESS && was_lost[gpu] ? LOST : code;
}

#define ENTER() do { int code = enter(__func__); if (code) return code; } while (0)
#define ENTER_GPU(index) do { int code = enter_gpu(__func__, index); if (code) return code; } while (0)
#define ENTER_DEVICE() do { if (!device) return INVALID_ARGUMENT; ENTER_GPU(device->gpu); } while (0)
#define NUMBER(value, target) do { if ((value) < 0) return NOT_SUPPORTED; *(target) = (uint)(value); } while (0)

static int text(const char *value, char *target, uint size) {
    if (!*value) return NOT_SUPPORTED;
    if (strlen(value) >= size) return INSUFFICIENT_SIZE;
    strcpy(target, value);
    return SUCCESS;
}

/* ---- the library ---- */

int nvmlInitWithFlags(uint flags) {
    (void)flags;
    read_script();
    if (init_code) return init_code;
    if (init_epoch != epoch) init_count = 0;
    if (!init_count++) memset(was_lost, 0, sizeof was_lost);
    init_epoch = epoch;
    return SUCCESS;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    if (!init_count) return UNINITIALIZED;
    init_count--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    switch (code) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case 9: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    case 16: return "GPU requires reset";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *version, uint size) { return text("550.163", version, size); }
int nvmlSystemGetNVMLVersion(char *version, uint size) { return text("12.535.261.03", version, size); }

int nvmlDeviceGetCount_v2(uint *count) {
    ENTER();
    for (*count = 0; *count < MAX_GPUS && gpus[*count].exists; ++*count) {}
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(uint index, Device **device) {
    ENTER();
    if (index >= MAX_GPUS || !gpus[index].exists) return INVALID_ARGUMENT;
    ENTER_GPU(index);
    *device = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, Device **device) {
    uint bus;
    if (sscanf(bus_id, "%*x:%x:", &bus) != 1 || !bus) return INVALID_ARGUMENT;
    return nvmlDeviceGetHandleByIndex_v2(bus - 1, device);
}

int nvmlDeviceGetIndex(Device *device, uint *index) {
    ENTER_DEVICE();
    *index = (uint)(device->instance < 0 ? device->gpu : device->instance);
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(Device *device, Pci *pci) {
    if (!device) return INVALID_ARGUMENT;
    memset(pci, 0, sizeof *pci);
    pci->bus = (uint)device->gpu + 1;
    snprintf(pci->bus_id_legacy, sizeof pci->bus_id_legacy, "0000:%02X:00.0", pci->bus);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus);
    return SUCCESS;
}

int nvmlDeviceGetUUID(Device *device, char *uuid, uint size) { ENTER_DEVICE(); return text(device->uuid, uuid, size); }
int nvmlDeviceGetName(Device *device, char *name, uint size) { ENTER_DEVICE(); return text(device->name, name, size); }

int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    ENTER_DEVICE();
    if (device->total < 0) return NOT_SUPPORTED;
    memory->total = (ull)device->total * MIB;
    memory->free = (ull)device->free * MIB;
    memory->used = memory->total - memory->free;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *memory) {
    ENTER_DEVICE();
    if (device->total < 0) return NOT_SUPPORTED;
    memory->total = (ull)device->total * MIB;
    memory->free = (ull)device->free * MIB;
    memory->reserved = (ull)(device->reserved < 0 ? 0 : device->reserved) * MIB;
    memory->used = memory->total - memory->free - memory->reserved;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Device *device, int sensor, uint *temp) {
    ENTER_DEVICE();
    if (sensor || device->instance >= 0) return INVALID_ARGUMENT;
    NUMBER(device->temp, temp);
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) {
    ENTER_DEVICE();
    rates->memory = 0;
    NUMBER(device->util, &rates->gpu);
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, ull *reasons) {
    ENTER_DEVICE();
    if (device->throttle < 0) return NOT_SUPPORTED;
    *reasons = (ull)device->throttle;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(Device *device, ull *reasons) {
    ENTER_DEVICE();
    if (device->throttle < 0) return NOT_SUPPORTED;
    *reasons = (ull)device->throttle;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device *device, uint *current, uint *pending) {
    ENTER_DEVICE();
    NUMBER(device->mig, current);
    *pending = *current;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, uint *count) {
    ENTER_DEVICE();
    *count = device->mig == 1 ? MAX_INSTANCES : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, uint index, Device **instance) {
    ENTER_DEVICE();
    if (index >= MAX_INSTANCES || !instances[device->gpu][index].exists) return NOT_FOUND;
    *instance = &instances[device->gpu][index];
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *device, Device **gpu) {
    ENTER_DEVICE();
    *gpu = &gpus[device->gpu];
    return SUCCESS;
}

int nvmlDeviceIsMigDeviceHandle(Device *device, uint *is_instance) {
    ENTER_DEVICE();
    *is_instance = device->instance >= 0;
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(Device *device, uint *id) { ENTER_DEVICE(); NUMBER(device->instance, id); return SUCCESS; }
int nvmlDeviceGetComputeInstanceId(Device *device, uint *id) { ENTER_DEVICE(); *id = 0; return SUCCESS; }

static int processes(const Device *device, uint *count, ProcessInfo *infos) {
    uint room = *count;
    *count = (uint)device->process_count;
    if (!*count) return SUCCESS;
    if (room < *count || !infos) return INSUFFICIENT_SIZE;
    for (uint i = 0; i < *count; i++) {
        infos[i].pid = device->processes[i].pid;
        infos[i].used = device->processes[i].mb < 0 ? ~0ULL : (ull)device->processes[i].mb * MIB;
        infos[i].gpu_instance = infos[i].compute_instance = ~0U;
    }
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(Device *device, uint *count, ProcessInfo *infos) {
    ENTER_DEVICE();
    return processes(device, count, infos);
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, uint *count, ProcessInfo *infos) {
    ENTER_DEVICE();
    return processes(device, count, infos);
}

/* ---- what nvidia-smi asks for besides ---- */

int nvmlInternalGetExportTable(const void **table, const void *id) {
    static const void *const empty[64] = {(const void *)sizeof empty};
    (void)id;
    *table = empty;                     /* its functions are private: all absent, printed as [Uninitialized] */
    return SUCCESS;
}

int nvmlDeviceGetSupportedClocksThrottleReasons(Device *device, ull *reasons) {
    ENTER_DEVICE();
    if (device->throttle < 0) return NOT_SUPPORTED;
    *reasons = 0x1ff;
    return SUCCESS;
}

int nvmlEventSetCreate(void **set) { *set = &epoch; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }

int nvmlDeviceGetAttributes_v2(Device *device, Attributes *attributes) {
    ENTER_DEVICE();
    memset(attributes, 0, sizeof *attributes);
    return SUCCESS;
}

int nvmlDeviceGetBAR1MemoryInfo(Device *device, Memory *memory) {
    ENTER_DEVICE();
    memset(memory, 0, sizeof *memory);
    return SUCCESS;
}

int nvmlDeviceGetMemoryErrorCounter(Device *device, int kind, int counter, int location, ull *count) {
    (void)kind, (void)counter, (void)location;
    ENTER_DEVICE();
    *count = 0;
    return SUCCESS;
}
