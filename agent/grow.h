#ifndef BANGER_GROW_H
#define BANGER_GROW_H

/* The file system mounted at `point` becomes as large as its device. Returns what the program ends with. */
int grow(const char *device, const char *point);

#endif
