// A list that is written once, as a macro that applies another one to each name. The codes of an
// enum and their names come from it by the two below, the cases of a switch by one where they
// stand.
#pragma once

#define FASTGAN_CODE(name) name,
#define FASTGAN_NAME(name) #name,
