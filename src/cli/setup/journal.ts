/** What `banger setup` changed, in a file of the state directory, so that `banger setup --undo` takes exactly that back. */
import { readFile, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BangerError, systemCode } from '../../errors.ts';
import { ensurePrivateDirectory, writeFileAtomic } from '../../system/files.ts';

export type Action =
  /** a file that was not there; `digest` of what was written */
  | { did: 'write'; path: string; digest: string }
  | { did: 'make-directory'; path: string }
  /** packages that were not installed, in dpkg's words */
  | { did: 'install'; packages: string[] }
  /** rules for sudo, a file of root */
  | { did: 'grant'; path: string }
  /** membership of a group that lets this user ask the network helper */
  | { did: 'join'; group: string; user: string }
  | { did: 'resolve' }
  /** `created` when the user had no ssh configuration of their own */
  | { did: 'include'; main: string; created: boolean }
  | { did: 'linger'; user: string };

export interface Journal {
  /** oldest first */
  actions(): readonly Action[];
  /** Written down before it is done; one that is there already is not repeated. */
  add(action: Action): Promise<void>;
  /** Forgets what was taken back; the file goes with the last one. */
  remove(action: Action): Promise<void>;
}

/** @throws BangerError `corrupt` when the file is not what was written */
export async function openJournal(path: string): Promise<Journal> {
  let actions = await read(path);
  const save = async () => {
    await ensurePrivateDirectory(dirname(path));
    if (actions.length === 0) await rm(path, { force: true });
    else await writeFileAtomic(path, `${JSON.stringify({ version: 1, actions }, null, 2)}\n`, 0o600);
  };
  const isSame = (one: Action) => (other: Action) => JSON.stringify(one) === JSON.stringify(other);
  return {
    actions: () => actions,
    async add(action) {
      if (actions.some(isSame(action))) return;
      actions = [...actions, action];
      await save();
    },
    async remove(action) {
      actions = actions.filter((other) => !isSame(action)(other));
      await save();
    },
  };
}

async function read(path: string): Promise<readonly Action[]> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
  try {
    const { version, actions } = JSON.parse(text) as { version: number; actions: Action[] };
    if (version === 1 && Array.isArray(actions)) return actions;
  } catch {
    // said below
  }
  throw new BangerError('corrupt', `${path} is not what banger setup wrote.`, {
    hint: `What it holds can be read and taken back by hand; then: rm ${path}`,
  });
}
