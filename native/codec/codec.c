/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "codec/codec.h"

static const struct zc_codec *const codecs[] = {&zc_lz4_codec};

const struct zc_codec *zc_codec_find(const char *name)
{
    for (size_t i = 0; i < sizeof(codecs) / sizeof(codecs[0]); i++) {
        if (strcmp(codecs[i]->name, name) == 0)
            return codecs[i];
    }
    return NULL;
}
