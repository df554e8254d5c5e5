/** What runs in a VM of an OCI image, as a client may change it. */
import { z } from 'zod';

const ProcessWord = z
  .string()
  .max(131_072)
  .regex(/^[^\0]*$/, 'must have no zero byte in it');

/** Of an OCI image; what is left out is the image's. */
export const VmProcess = z
  .strictObject({
    entrypoint: z
      .array(ProcessWord)
      .max(1000)
      .optional()
      .describe('takes the place of the image’s, and its command away'),
    cmd: z.array(ProcessWord).max(1000).optional().describe('arguments of the entrypoint'),
    env: z
      .array(ProcessWord.regex(/^[^=]+=/, 'must be NAME=VALUE'))
      .max(1000)
      .optional(),
    user: ProcessWord.optional().describe('name or id, with `:GROUP` if need be'),
    workdir: ProcessWord.startsWith('/').optional(),
  })
  .describe('what runs in a VM of an OCI image');
