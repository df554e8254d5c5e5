/** What `vm create` and `run` ask about a new VM, and the request made of it. */

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import type { RestartPolicy, VmCreate } from '../../api/vm.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { parseDuration } from '../../units.ts';
import type { OptionSpecs, OptionValues } from '../command-shape.ts';
import { VM_FLAGS } from './flag-names.ts';
import { parseVariable, splitWords } from './words.ts';

export const RESTART_POLICIES = ['never', 'on-failure', 'always'] as const satisfies RestartPolicy[];

export const VM_OPTIONS = {
  image: {
    type: 'text',
    short: 'i',
    placeholder: 'name',
    completes: ['image', 'bundle'],
    help: 'bundle or image to make it from',
  },
  vcpus: { type: 'count', help: 'virtual processors, 1 to 32' },
  memory: { type: 'memory', short: 'm', help: 'memory, e.g. 512M or 2G; a bare number counts MiB' },
  disk: { type: 'size', help: 'size of the root disk; at least that of the image' },
  workDisk: { type: 'size', orNone: true, help: 'size of the work disk; 0 or none for none' },
  workMount: { type: 'text', placeholder: 'path', help: 'where the guest mounts the work disk', default: '/root' },
  workDiskFrom: {
    type: 'text',
    placeholder: 'name|file',
    completes: ['kept-disk', 'file'],
    help: 'use a kept work disk, or a copy of a file',
  },
  nat: { type: 'off', help: 'keep it from reaching anything outside this host' },
  autostart: { type: 'flag', help: 'start it whenever this host comes up' },
  restart: {
    type: 'text',
    placeholder: 'policy',
    choices: RESTART_POLICIES,
    help: 'what to do when it ends by itself',
    default: 'never',
  },
  idleSuspend: {
    type: 'text',
    placeholder: 'time',
    help: 'suspend it after so long without use, e.g. 30m',
    default: 'off',
  },
  userData: {
    type: 'text',
    placeholder: 'file',
    completes: ['file'],
    help: 'file for cloud-init at its first boot; a script (#!) also where there is none',
  },
  metaData: { type: 'text', placeholder: 'file', completes: ['file'], help: 'the same: meta-data for cloud-init' },
  entrypoint: {
    type: 'text',
    placeholder: 'words',
    help: 'run this instead of what the OCI image runs; none for nothing',
  },
  cmd: { type: 'text', placeholder: 'words', help: 'arguments for what the OCI image runs, instead of its own' },
  user: { type: 'text', placeholder: 'name[:group]', help: 'as whom the OCI image’s process runs' },
  workdir: { type: 'text', placeholder: 'dir', help: 'directory the OCI image’s process runs in' },
} as const satisfies OptionSpecs;

export type VmOptionValues = OptionValues<typeof VM_OPTIONS> & {
  /** variables for the process of an OCI image */
  processEnv?: readonly string[];
};

export function vmCreateRequest(name: string, options: VmOptionValues): VmCreate {
  return {
    name,
    ...(options.image === undefined ? {} : { image: options.image }),
    ...(options.vcpus === undefined ? {} : { vcpus: options.vcpus }),
    ...(options.memory === undefined ? {} : { memoryMib: options.memory }),
    ...(options.disk === undefined ? {} : { rootDiskBytes: options.disk }),
    ...(options.workDisk === undefined ? {} : { workDiskBytes: options.workDisk }),
    ...(options.workMount === undefined ? {} : { workMount: options.workMount }),
    ...(options.workDiskFrom === undefined ? {} : { workDiskFrom: workDiskFrom(options.workDiskFrom) }),
    ...(options.nat ? { nat: false } : {}),
    ...(options.autostart ? { autostart: true } : {}),
    // the parser takes none but these
    ...(options.idleSuspend === undefined ? {} : { idleSuspendMs: idleSuspendMs(options.idleSuspend) }),
    ...processRequest(options),
    ...(options.userData === undefined ? {} : { userData: textOf('--user-data', options.userData) }),
    ...(options.metaData === undefined ? {} : { metaData: textOf('--meta-data', options.metaData) }),
    ...(options.restart === undefined ? {} : { restartPolicy: options.restart as RestartPolicy }),
  };
}

function processRequest({
  entrypoint,
  cmd,
  user,
  workdir,
  processEnv = [],
}: VmOptionValues): Pick<VmCreate, 'process'> {
  const process = {
    ...(entrypoint === undefined ? {} : { entrypoint: entrypoint === 'none' ? [] : splitWords(entrypoint) }),
    ...(cmd === undefined ? {} : { cmd: splitWords(cmd) }),
    ...(user === undefined ? {} : { user }),
    ...(workdir === undefined ? {} : { workdir }),
    ...(processEnv.length === 0 ? {} : { env: processEnv.map((text) => parseVariable(text).join('=')) }),
  };
  return Object.keys(process).length === 0 ? {} : { process };
}

/**
 * `off` or a time, in `ms`.
 * @throws BangerError `invalid_input`
 */
export function idleSuspendMs(text: string): number {
  if (text === 'off') return 0;
  try {
    return parseDuration(text);
  } catch (error) {
    if (!(error instanceof BangerError)) throw error;
    throw error.reworded(`--idle-suspend: ${error.message}`, { hint: '--idle-suspend 30m   or --idle-suspend off' });
  }
}

/** A file is a path of the client, and the daemon has another working directory. */
function workDiskFrom(given: string): string {
  return given.includes('/') ? resolve(given) : given;
}

/** @throws BangerError `invalid_input` for a file that cannot be read */
function textOf(flag: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new BangerError('invalid_input', `${flag}: ${path} cannot be read (${systemCode(error)}).`, { cause: error });
  }
}

/** The flags among these that were given, as they are written. */
export function givenVmFlags(options: VmOptionValues): string[] {
  const { name: _, process = {}, ...given } = vmCreateRequest('', options);
  return [...Object.keys(given).map((key) => VM_FLAGS[key] ?? key), ...Object.keys(process).map((key) => `--${key}`)];
}

/** Autostart is the daemon's doing: somebody has to start that one. */
export const AUTOSTART_HINT = 'It starts with the host if the daemon does: banger daemon install';
