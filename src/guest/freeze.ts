/** Holds the file systems of a guest still, for as long as their disks are cloned: over an SSH connection, by fsfreeze(8). */
import { BangerError } from '../errors.ts';
import { quote } from './command.ts';
import type { SshConnection } from './ssh.ts';

export interface FrozenGuest {
  /**
   * Lets the guest write again.
   * @returns `ms` for which it could not, undefined when it did not stay frozen for the whole time
   */
  thaw(): Promise<number | undefined>;
}

/** What the guest says. */
const FREEZING = 'banger: freezing';
const FROZEN = 'banger: frozen';
const THAWED = 'banger: thawed';
const LATE = 'banger: late';

const NO_PROGRAM = 92;

/** Writing out what is dirty, before and while the guest is frozen; an emulated one with a slow disk takes long. */
const FREEZE_LIMIT_MS = 60_000;
const THAW_LIMIT_MS = 30_000;

/** Kept of what a guest says meanwhile. */
const MAX_SAID = 4096;

/**
 * Freezes mounted file systems, all or none. The guest thaws by itself when the connection ends, and after `limitMs` of its own
 * time: what the daemon does in between may never come to its end.
 * @param mounts in the order in which they are frozen; the root, which the programs are on, comes last
 * @throws BangerError `guest_failed` when the guest cannot, and nothing is frozen then
 */
export async function freezeGuest(
  connection: SshConnection,
  mounts: readonly string[],
  limitMs: number,
): Promise<FrozenGuest> {
  const channel = await connection.exec(`exec sh -c ${quote(freezeScript(mounts, limitMs))}`);
  let said = '';
  let ended = false;
  let frozenSince = 0;
  const waiting = new Set<() => void>();
  const gather = (chunk: Buffer) => {
    if (frozenSince === 0 && chunk.includes(FREEZING)) frozenSince = performance.now();
    said = (said + chunk.toString('utf8')).slice(-MAX_SAID);
    for (const wake of waiting) wake();
  };
  let exitCode: number | null = null;
  channel.on('data', gather).stderr.on('data', gather);
  channel.on('error', () => {}); // 'close' follows
  channel.once('close', (code?: number | null) => {
    exitCode = code ?? null;
    ended = true;
    for (const wake of waiting) wake();
  });

  /** Until it has said one of these or ended; false after the limit. */
  const hear = async (words: readonly string[], limit: number): Promise<boolean> => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const look = () => {
      if (words.some((word) => said.includes(word))) resolve(true);
      else if (ended) resolve(false);
    };
    const timer = setTimeout(() => resolve(false), limit);
    waiting.add(look);
    look();
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      waiting.delete(look);
    }
  };

  if (!(await hear([FROZEN], FREEZE_LIMIT_MS))) {
    channel.close(); // its input ends, by which it thaws
    throw new BangerError(
      'guest_failed',
      `The guest cannot hold its file systems still: ${whyNot(exitCode, ended, said)}.`,
      {
        hint: 'Stop the VM first: the disks of one that does not run are of one moment by themselves.',
      },
    );
  }
  return {
    async thaw() {
      channel.write('thaw\n');
      const heard = await hear([THAWED, LATE], THAW_LIMIT_MS);
      const pauseMs = performance.now() - frozenSince;
      channel.end();
      return heard && said.includes(THAWED) ? pauseMs : undefined;
    },
  };
}

/**
 * The guard thaws after the limit. That a file system was thawed before its time is told by fsfreeze itself, which finds
 * nothing to thaw; so no file has to be written, which would wait for the thaw.
 */
function freezeScript(mounts: readonly string[], limitMs: number): string {
  const all = mounts.map(quote);
  const thaw = all.toReversed().map((mount) => `fsfreeze -u ${mount} || late=1`);
  const undo = all.toReversed().map((mount) => `fsfreeze -u ${mount}`);
  const freeze = all.map((mount) => `fsfreeze -f ${mount}`).join(' && ');
  return `PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH
trap '' HUP INT TERM PIPE
command -v fsfreeze > /dev/null || exit ${NO_PROGRAM}
sync
( sleep ${Math.ceil(limitMs / 1000)}; ${undo.join('; ')} ) > /dev/null 2>&1 < /dev/null &
guard=$!
late=
echo '${FREEZING}'
if ! { ${freeze}; }; then
  { ${undo.join('; ')}; } 2> /dev/null
  kill -KILL $guard
  exit 1
fi
echo '${FROZEN}'
read -r word
{ ${thaw.join('; ')}; } 2> /dev/null
kill -KILL $guard 2> /dev/null
if [ -n "$late" ]; then echo '${LATE}'; else echo '${THAWED}'; fi
`;
}

function whyNot(exitCode: number | null, ended: boolean, said: string): string {
  if (exitCode === NO_PROGRAM) return 'it has no fsfreeze (package util-linux)';
  if (!ended) return `it did not come to an end within ${FREEZE_LIMIT_MS / 1000} s`;
  const lines = said.split('\n').filter((line) => line.trim() !== '' && !line.includes(FREEZING));
  return lines.at(-1)?.trim() ?? 'the connection ended';
}
