/* An interpreter of PTX, so that the text which a GPU would be given is what the tests run. It knows the instructions of one
 * thread that add numbers and walk through memory; one that it does not know makes the module invalid, as it would be for a
 * driver that is too old. */
#include "ptx.h"
#include "standin.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_INSTRUCTIONS = 128, MOST_NAMES = 64, NAME_LENGTH = 32, MOST_PARAMS = 8, MOST_LABELS = 16 };

/* An operand: a register, a number, a special register or a parameter. */
typedef struct {
    enum { NONE, REGISTER, NUMBER, SPECIAL, PARAM, LABEL } kind;
    uint64_t value;
} Operand;

typedef enum { ADD_U64, ADD_U32, ADD_F32, MUL_WIDE, CVT_U64_U32, MOVE, SHL_B64, GE_U64, GE_U32, EQ_U32, SELECT, LOAD_F32,
               STORE_F32, LOAD_PARAM, BRANCH, RETURN } Opcode;

typedef struct {
    Opcode opcode;
    int guard; /* register, -1 for none */
    Operand operands[4];
} Instruction;

struct Kernel {
    int n_params, n_instructions, n_registers, n_labels;
    int param_bytes[MOST_PARAMS];
    char params[MOST_PARAMS][NAME_LENGTH], registers[MOST_NAMES][NAME_LENGTH], labels[MOST_LABELS][NAME_LENGTH];
    int targets[MOST_LABELS];
    Instruction instructions[MOST_INSTRUCTIONS];
};

static const struct { const char *name; Opcode opcode; int n_operands; } KNOWN[] = {
    {"add.u64", ADD_U64, 3}, {"add.u32", ADD_U32, 3}, {"add.rn.f32", ADD_F32, 3}, {"mul.wide.u32", MUL_WIDE, 3},
    {"cvt.u64.u32", CVT_U64_U32, 2}, {"mov.u32", MOVE, 2}, {"cvta.to.global.u64", MOVE, 2}, {"shl.b64", SHL_B64, 3},
    {"setp.ge.u64", GE_U64, 3}, {"setp.ge.u32", GE_U32, 3}, {"setp.eq.u32", EQ_U32, 3}, {"selp.b64", SELECT, 4},
    {"ld.global.f32", LOAD_F32, 2}, {"st.global.f32", STORE_F32, 2}, {"ld.param.u64", LOAD_PARAM, 2},
    {"ld.param.u32", LOAD_PARAM, 2}, {"bra", BRANCH, 1}, {"ret", RETURN, 0},
};

static const char *SPECIALS[] = {"%ctaid.x", "%nctaid.x", "%tid.x", "%ntid.x"};

/* The index of a name, which is added if it is new. */
static int name_index(char names[][NAME_LENGTH], int *n, int most, const char *name) {
    for (int i = 0; i < *n; i++)
        if (strcmp(names[i], name) == 0) return i;
    if (*n == most || strlen(name) >= NAME_LENGTH) return -1;
    strcpy(names[*n], name);
    return (*n)++;
}

static int parse_operand(Kernel *k, Opcode opcode, char *text, Operand *operand) {
    char *end = text + strlen(text);
    while (end > text && (isspace((unsigned char)end[-1]) || end[-1] == ']')) *--end = 0;
    while (isspace((unsigned char)*text) || *text == '[') text++;
    for (int i = 0; i < 4; i++)
        if (strcmp(text, SPECIALS[i]) == 0) {
            *operand = (Operand){SPECIAL, (uint64_t)i};
            return 1;
        }
    for (int i = 0; i < k->n_params; i++)
        if (strcmp(text, k->params[i]) == 0) {
            *operand = (Operand){PARAM, (uint64_t)i};
            return 1;
        }
    if (*text == '%' || opcode == BRANCH) {
        int index = *text == '%' ? name_index(k->registers, &k->n_registers, MOST_NAMES, text)
                                 : name_index(k->labels, &k->n_labels, MOST_LABELS, text);
        *operand = (Operand){*text == '%' ? REGISTER : LABEL, (uint64_t)index};
        return index >= 0;
    }
    if (!isdigit((unsigned char)*text)) return 0;
    *operand = (Operand){NUMBER, strtoull(text, &end, 0)};
    return *end == 0;
}

static int parse_instruction(Kernel *k, char *line, char *error) {
    Instruction instruction = {.guard = -1};
    if (*line == '@') {
        char *end = line + strcspn(line, " \t");
        *end = 0;
        instruction.guard = name_index(k->registers, &k->n_registers, MOST_NAMES, line + 1);
        line = end + 1;
    }
    size_t length = strcspn(line, " \t");
    int known = -1;
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
        if (strlen(KNOWN[i].name) == length && strncmp(KNOWN[i].name, line, length) == 0) known = (int)i;
    if (known < 0 || k->n_instructions == MOST_INSTRUCTIONS) {
        snprintf(error, 256, "unknown instruction %.*s", (int)length, line);
        return 0;
    }
    instruction.opcode = KNOWN[known].opcode;
    char *rest = line + length;
    for (int i = 0; i < KNOWN[known].n_operands; i++) {
        char *operand = strsep(&rest, ",");
        if (operand == NULL || !parse_operand(k, instruction.opcode, operand, &instruction.operands[i])) {
            snprintf(error, 256, "operand %d of %s", i, KNOWN[known].name);
            return 0;
        }
    }
    k->instructions[k->n_instructions++] = instruction;
    return 1;
}

static int parse_params(Kernel *k, char *list) {
    char *param;
    while ((param = strsep(&list, ",")) != NULL) {
        char type[8], name[NAME_LENGTH];
        if (k->n_params == MOST_PARAMS || sscanf(param, " .param .%7s %31s", type, name) != 2) return 0;
        k->param_bytes[k->n_params] = strcmp(type, "u64") == 0 ? 8 : strcmp(type, "u32") == 0 ? 4 : 0;
        if (k->param_bytes[k->n_params] == 0) return 0;
        strcpy(k->params[k->n_params++], name);
    }
    return 1;
}

static void without_comments(char *text) {
    for (char *comment = strstr(text, "//"); comment; comment = strstr(comment, "//"))
        for (; *comment && *comment != '\n'; comment++) *comment = ' ';
}

Kernel *ptx_parse(const char *source, const char *name, char *error) {
    char *text = strdup(source), entry[64];
    Kernel *k = calloc(1, sizeof *k);
    without_comments(text);
    snprintf(entry, sizeof entry, ".entry %s(", name);
    char *begin = strstr(text, entry), *body = begin ? strchr(begin, '{') : NULL, *end = body ? strchr(body, '}') : NULL;
    snprintf(error, 256, "no entry %s, or one that is not whole", name);
    if (end == NULL || strstr(text, ".version ") == NULL || strstr(text, ".target sm_") == NULL) goto invalid;
    char *params = begin + strlen(entry), *close = strchr(params, ')');
    *close = *end = 0;
    snprintf(error, 256, "parameters of %s", name);
    if (!parse_params(k, params)) goto invalid;
    char *rest = body + 1, *statement;
    while ((statement = strsep(&rest, ";")) != NULL) {
        for (;;) {
            while (isspace((unsigned char)*statement)) statement++;
            char *colon = statement + strcspn(statement, " \t\n:");
            if (*colon != ':') break;
            *colon = 0;
            int label = name_index(k->labels, &k->n_labels, MOST_LABELS, statement);
            if (label < 0) goto invalid;
            k->targets[label] = k->n_instructions + 1; /* zero is none */
            statement = colon + 1;
        }
        if (*statement == 0 || strncmp(statement, ".reg", 4) == 0) continue;
        if (!parse_instruction(k, statement, error)) goto invalid;
    }
    for (int i = 0; i < k->n_labels; i++)
        if (k->targets[i] == 0) goto invalid;
    free(text);
    return k;
invalid:
    free(text);
    free(k);
    return NULL;
}

int ptx_n_params(const Kernel *kernel) { return kernel->n_params; }
int ptx_param_bytes(const Kernel *kernel, int param) { return kernel->param_bytes[param]; }
void ptx_free(Kernel *kernel) { free(kernel); }

static float as_float(uint64_t bits) {
    uint32_t low = (uint32_t)bits;
    float value;
    memcpy(&value, &low, 4);
    return value;
}

int ptx_run(const Kernel *k, const uint64_t *params, uint32_t block, uint32_t n_blocks, uint32_t thread, uint32_t n_threads) {
    uint64_t registers[MOST_NAMES] = {0};
    const uint64_t specials[] = {block, n_blocks, thread, n_threads};
    for (int at = 0; at < k->n_instructions; at++) {
        const Instruction *in = &k->instructions[at];
        if (in->guard >= 0 && !registers[in->guard]) continue;
        uint64_t v[4];
        for (int i = 0; i < 4; i++) {
            Operand o = in->operands[i];
            v[i] = o.kind == REGISTER ? registers[o.value] : o.kind == SPECIAL ? specials[o.value] : o.kind == PARAM ? params[o.value] : o.value;
        }
        uint64_t result = 0;
        switch (in->opcode) {
        case ADD_U64: result = v[1] + v[2]; break;
        case ADD_U32: result = (uint32_t)(v[1] + v[2]); break;
        case ADD_F32: {
            float sum = as_float(v[1]) + as_float(v[2]);
            uint32_t bits;
            memcpy(&bits, &sum, 4);
            result = bits;
            break;
        }
        case MUL_WIDE: result = (uint64_t)(uint32_t)v[1] * (uint32_t)v[2]; break;
        case CVT_U64_U32: result = (uint32_t)v[1]; break;
        case MOVE: case LOAD_PARAM: result = v[1]; break;
        case SHL_B64: result = v[1] << v[2]; break;
        case GE_U64: result = v[1] >= v[2]; break;
        case GE_U32: result = (uint32_t)v[1] >= (uint32_t)v[2]; break;
        case EQ_U32: result = (uint32_t)v[1] == (uint32_t)v[2]; break;
        case SELECT: result = v[3] ? v[1] : v[2]; break;
        case LOAD_F32: case STORE_F32: {
            void *address = (void *)(uintptr_t)v[in->opcode == LOAD_F32];
            if (!standin_is_memory(address, 4)) return 700;
            uint32_t bits = (uint32_t)v[1];
            if (in->opcode == STORE_F32) { memcpy(address, &bits, 4); continue; }
            memcpy(&bits, address, 4);
            result = bits;
            break;
        }
        case BRANCH: at = k->targets[in->operands[0].value] - 2; continue;
        case RETURN: return 0;
        }
        registers[in->operands[0].value] = result;
    }
    return 0;
}
