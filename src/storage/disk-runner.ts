/**
 * Runs programs of e2fsprogs on file systems that guests have written: as the user of the file they work on, with nothing
 * else of the host's in reach, and within limits. A mistake in one of them is then no way out of a VM.
 */
import { chmod, chown, open, stat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { isInRange, type VmUsers } from '../core/vm-users.ts';
import { type Confined, cleanEnvironment, confinedArgv } from '../system/confinement.ts';
import { createMutex } from '../system/mutex.ts';
import type { Argv, Runner, RunOptions, RunResult } from '../system/runner.ts';
import { GIB, MIB } from '../units.ts';
import { giveFile, letEnter } from './ownership.ts';

/** Runs one program on one file, whose absolute path is its last argument. */
export interface DiskRunner {
  /** @throws as `Runner.run` */
  run(argv: Argv, options?: RunOptions): Promise<RunResult>;
}

export interface DiskRunnerOptions {
  runner: Runner;
  /** environment of the daemon */
  env: NodeJS.ProcessEnv;
  users: VmUsers;
  /** the VM whose file it is; without one the file's owner decides */
  user?: number | null;
}

/** e2fsck maps the blocks and inodes of a file system several times over: this much of its size, and the rest. */
const MEMORY_SHARE = 64;
const MEMORY_BYTES = GIB;
const OPEN_FILES = 64;
/** What none of them takes of a processor for a disk that fits on a host. */
const CPU_SECONDS = 3600;

export function createDiskRunner({ runner, env, users, user }: DiskRunnerOptions): DiskRunner {
  return {
    async run(argv, options = {}) {
      const path = argv.at(-1) ?? '';
      const { size, uid } = await stat(path);
      const limits = {
        fileBytes: size + MIB,
        memoryBytes: MEMORY_BYTES + Math.ceil(size / MEMORY_SHARE),
        openFiles: OPEN_FILES,
        cpuSeconds: CPU_SECONDS,
      };
      const common = { ...options, env: cleanEnvironment(env) };
      if (!users.range) return await runner.run(confinedArgv(argv, { limits }), common);
      const owner = user ?? (isInRange(users.range, uid) ? uid : undefined);
      const confined: Confined = { user: owner ?? users.range.first, limits };
      // by its name in the directory: those above it are closed to the user
      const inPlace = { ...common, cwd: dirname(path) };
      const there: Argv = confinedArgv([argv[0], ...argv.slice(1, -1), basename(path)], confined);
      if (owner !== undefined) {
        await letEnter(dirname(path), owner);
        await giveFile(path, owner);
        return await runner.run(there, inPlace);
      }
      await chmod(dirname(path), 0o711);
      await giveFile(path, users.range.first);
      try {
        return await runner.run(there, inPlace);
      } finally {
        await giveFile(path, 0);
      }
    },
  };
}

/** What is only read may be somebody else's, and in a directory that is closed to all others. */
export function createDiskReader({ runner, env, users }: Omit<DiskRunnerOptions, 'user'>): DiskRunner {
  return {
    async run(argv, options = {}) {
      const path = argv.at(-1) ?? '';
      const { size, uid } = await stat(path);
      const limits = {
        fileBytes: 0,
        memoryBytes: MEMORY_BYTES + Math.ceil(size / MEMORY_SHARE),
        openFiles: OPEN_FILES,
        cpuSeconds: CPU_SECONDS,
      };
      const common = { ...options, env: cleanEnvironment(env) };
      if (!users.range) return await runner.run(confinedArgv(argv, { limits }), common);
      const user = isInRange(users.range, uid) ? uid : users.range.first;
      const release = user === uid ? undefined : await lend(path, user);
      const file = await open(path, 'r');
      try {
        const named: Argv = [argv[0], ...argv.slice(1, -1), '/dev/stdin'];
        return await runner.run(confinedArgv(named, { user, limits }), { ...common, stdin: file.fd });
      } finally {
        await file.close();
        await release?.();
      }
    },
  };
}

/** Files that are being read by another user than their owner, with how they were before. */
const lent = new Map<string, { readers: number; gid: number; mode: number }>();
const oneAtATime = createMutex();

/** Lets a user read a file by its group until all who asked for that are done. */
async function lend(path: string, user: number): Promise<() => Promise<void>> {
  await oneAtATime.run(async () => {
    const { uid, gid, mode } = await stat(path);
    const known = lent.get(path) ?? { readers: 0, gid, mode: mode & 0o777 };
    lent.set(path, { ...known, readers: known.readers + 1 });
    if ((mode & 0o4) !== 0 || (gid === user && (mode & 0o40) !== 0)) return;
    await chown(path, uid, user);
    await chmod(path, (mode & 0o777) | 0o40);
  });
  return async () =>
    await oneAtATime.run(async () => {
      const known = lent.get(path);
      if (!known) return;
      lent.set(path, { ...known, readers: known.readers - 1 });
      if (known.readers > 1) return;
      lent.delete(path);
      const now = await stat(path).catch(() => undefined); // gone meanwhile
      if (now?.gid !== user || known.gid === user) return;
      await chown(path, now.uid, known.gid);
      await chmod(path, known.mode);
    });
}
