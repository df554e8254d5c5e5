/** What a host whose daemons die has besides records and files: devices, routes, packet rules, VMMs, kernel files. */
import assert from 'node:assert/strict';
import { copyFile } from 'node:fs/promises';
import { basename } from 'node:path';
import type { Config } from '../../src/config/schema.ts';
import { parseAddress } from '../../src/core/addresses.ts';
import { READY_ANNOUNCED } from '../../src/core/boot-words.ts';
import { BangerError, messageOf } from '../../src/errors.ts';
import { vmFiles } from '../../src/storage/layout.ts';
import type { Argv, Runner, RunOptions, RunResult } from '../../src/system/runner.ts';
import { asNobody, effect, effectOrNever, type KernelFiles, type Mortal } from './effects.ts';
import { type FakeVmm, startFakeVmm } from './fake-vmm.ts';
import type { Medium } from './medium.ts';
import { writeSuperblock } from './mortal-disks.ts';

export interface Place {
  kernel: KernelFiles;
  vmms: FakeVmm[];
  devices: Set<string>;
  /** destination and device, `refused` for none */
  routes: Map<string, string>;
  rules: string;
  /** processes that the kernel has ended because memory was short */
  oomKills: number;
  /** guests say that they will be ready, and never that they are */
  neverReady: boolean;
  runner: Runner;
  /** the daemon whose requests VMMs get */
  asking?: Mortal;
}

export function createPlace(config: Config, medium: Medium): Place {
  const settings = new Map<string, string>();
  const { programs } = config;
  const place: Place = {
    vmms: [],
    devices: new Set(),
    routes: new Map(),
    rules: '',
    oomKills: 0,
    neverReady: false,
    kernel: {
      read(path) {
        if (path === '/proc/net/route') return routingTable(place.routes);
        if (path === '/proc/vmstat') return `pgfault 1\noom_kill ${place.oomKills}\n`;
        const [, device] =
          /^\/sys\/class\/net\/([^/]+)$|\/conf\/([^/]+)\/forwarding$/.exec(path)?.filter(Boolean) ?? [];
        if (device === undefined || !place.devices.has(device)) return undefined;
        return settings.get(path) ?? '0';
      },
      write: (path, text) => void settings.set(path, text),
      processes: () => place.vmms.map(({ pid }) => pid),
    },
    runner: {
      async run(given, options = {}): Promise<RunResult> {
        const argv = withAllRights(given);
        const line = argv
          .join(' ')
          .replaceAll(/\/\S+\//g, '')
          .replaceAll(/\b[0-9a-f]{8}\b/g, 'ID');
        const changes = !/^\S+ -j /.test(line);
        await effectOrNever(changes ? line : `look ${line}`).catch((error) => {
          const why = messageOf(error).replace('ENOSPC: no', 'No');
          throw new BangerError('command_failed', `${line} ended with 1: ${why}`, { cause: error });
        });
        const { exitCode = 0, stdout = '' } = await asNobody(() => perform(argv, options));
        assert.ok((options.okExits ?? [0]).includes(exitCode), `${line} ended with ${exitCode}`);
        return { exitCode, stdout, stderr: '' };
      },
      async startDetached(argv) {
        await effectOrNever('start the VMM');
        // whoever asks it has it done
        const { rootDisk, workDisk } = vmFiles(config.paths.store, idOf(argv));
        const onRequest = (request: string) => {
          place.asking?.run(() => effect(`VMM ${request}`));
          // its guest writes until it stands still, and as soon as it goes on
          if (/\/(vm|actions)$/.test(request)) for (const disk of [rootDisk, workDisk]) medium.wrote(disk, 'guest');
        };
        const wrote = (path: string) => medium.wrote(path);
        const prints = place.neverReady ? { prints: `${READY_ANNOUNCED} default.target\n` } : {};
        const vmm = await asNobody(() => startFakeVmm({ argv, onRequest, wrote, ...prints }));
        place.vmms.push(vmm);
        return { pid: vmm.pid, ended: vmm.ended };
      },
    },
  };

  async function perform(argv: Argv, { input }: RunOptions): Promise<Partial<RunResult>> {
    const [program, ...args] = argv;
    const last = args.at(-1) ?? '';
    const line = args.join(' ');
    if (program === programs.ip) {
      if (args[0] === '-batch') {
        for (const words of String(input).trim().split('\n')) await perform([program, ...words.split(' ')], {});
        return {};
      }
      const [, device = ''] = / dev (\S+)/.exec(` ${line}`) ?? [];
      const [, destination = ''] = /^route (?:replace|delete) (?:unreachable )?(\S+)/.exec(line) ?? [];
      if (line.startsWith('tuntap add')) place.devices.add(device);
      else if (line.startsWith('link delete')) {
        place.devices.delete(device);
        for (const [to, by] of place.routes) if (by === device) place.routes.delete(to);
      } else if (line.startsWith('route replace')) place.routes.set(destination, device || 'refused');
      else if (line.startsWith('route delete')) place.routes.delete(destination);
      else if (line.startsWith('-j')) return { stdout: '[]' };
      return {};
    }
    if (program === programs.nft) {
      if (line === '-f -') place.rules = /elements/.test(String(input)) ? String(input) : '';
      else return place.rules ? { stdout: JSON.stringify({ nftables: [{ text: place.rules }] }) } : { exitCode: 1 };
      return {};
    }
    if (program === programs.cp) {
      await copyFile(args.at(-2) ?? '', last);
      medium.wrote(last);
    } else if (program === programs.mke2fs) await writeSuperblock(last);
    else if (program === programs.resize2fs) await writeSuperblock(last);
    // the limits of a process that runs
    else if (program !== 'prlimit') assert.equal(program, programs.e2fsck, `no script for: ${argv.join(' ')}`);
    return {};
  }
  return place;
}

/** Id of the VM that a VMM is started for: its socket is named by it. */
function idOf(argv: Argv): string {
  return basename(argv[argv.indexOf('--api-sock') + 1] ?? '', '.sock');
}

/** What a program is started by that takes rights away from it is of no interest here. */
function withAllRights([first, ...rest]: Argv): Argv {
  const [program = '', ...args] =
    first === 'prlimit' && rest.includes('--') ? rest.slice(rest.indexOf('--') + 1) : [first, ...rest];
  return [program, ...args];
}

function routingTable(routes: ReadonlyMap<string, string>): string {
  const hex = (value: number) => {
    const word = Buffer.alloc(4);
    word.writeUInt32LE(value >>> 0);
    return word.toString('hex').toUpperCase();
  };
  const lines = [...routes].map(([destination, device]) => {
    const [base = '', prefix = '32'] = destination.split('/');
    const mask = Number(prefix) === 0 ? 0 : (-1 << (32 - Number(prefix))) >>> 0;
    const flags = device === 'refused' ? '0200' : '0001';
    return [
      device === 'refused' ? '*' : device,
      hex(parseAddress(base)),
      '00000000',
      flags,
      '0',
      '0',
      '0',
      hex(mask),
    ].join('\t');
  });
  return ['Iface\tDestination\t…', ...lines].join('\n');
}
