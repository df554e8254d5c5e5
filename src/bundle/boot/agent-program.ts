/** The agent that each initrd takes into its guest; it is compiled by `make build`, and inside the executable from then on. */
import { readFile } from 'node:fs/promises';
import { getAsset, isSea } from 'node:sea';
import { BangerError } from '../../errors.ts';

/** As the asset and in `dist/`. */
const NAME = 'banger-agent';

/** @throws BangerError `host_unprepared` when it was not compiled, which only happens when banger is run from its source */
export async function readAgentProgram(): Promise<Buffer> {
  if (isSea()) return Buffer.from(getAsset(NAME));
  try {
    return await readFile(new URL(`../../../dist/${NAME}`, import.meta.url));
  } catch (cause) {
    throw new BangerError('host_unprepared', `The program dist/${NAME} was not compiled yet.`, {
      cause,
      hint: 'Compile it: make build',
    });
  }
}
