/** Hosts that templates are made on: guests whose agents do what they are asked, and what is left of everything afterwards. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import type { ImageWarmed } from '../../src/api/image.ts';
import type { Agents } from '../../src/control/host.ts';
import { warmImage } from '../../src/control/warm/background.ts';
import type { AgentChannel } from '../../src/guest/agent/exec-channel.ts';
import { effectOrNever } from './effects.ts';
import { DISK_BYTES, OLD } from './mortal-disks.ts';
import { type Daemon, type MortalHost, mortalHost } from './mortal-host.ts';
import { agentsOf, type Guests as WokenGuests } from './waking-agents.ts';

export interface Guests extends WokenGuests {
  /** scripts that were run in them */
  scripts: string[];
  /** how one ends; with 0 without it */
  exitOf?: (script: string) => number;
  /** how one says that it is ready; at once without it */
  ready?: (signal: AbortSignal | undefined) => Promise<undefined>;
}

export const noGuests = (): Guests => ({ woken: [], scripts: [] });

/** Agents of guests that come to the end of their boot and run what is left for them. */
function bootedAgents(guests: Guests): Agents {
  return agentsOf(guests, {
    hello: {
      ...{ protocol: 1, version: '0', features: new Set(['ready', 'quiesce', 'wake-same', 'wake-new', 'exec']) },
      ...{ frozenBy: undefined, generation: undefined },
    },
    ready: async (signal) => (await guests.ready?.(signal)) ?? { uptimeMs: 10, failedUnits: ['sad.service'] },
    exec() {
      // what it says is what it is given
      const channel = new PassThrough();
      let given = '';
      channel.on('data', (script) => {
        given = String(script);
        guests.scripts.push(given);
      });
      const ended = effectOrNever('agent: exec').then(() => ({ code: guests.exitOf?.(given) ?? 0, signal: null }));
      return Object.assign(channel, { stderr: new PassThrough().end(), ended }) as unknown as AgentChannel;
    },
  });
}

export const SIZE = { image: OLD.name, memoryMib: 256, vcpus: 1, rootDiskBytes: DISK_BYTES, workDiskBytes: 0 };

export function withAgents(daemon: Daemon, guests = noGuests()): Daemon {
  daemon.host.agents = bootedAgents(guests);
  return daemon;
}

export async function warm(daemon: Daemon, request: Partial<typeof SIZE> = {}): Promise<ImageWarmed> {
  const made = await daemon.finish(() => warmImage(daemon.host, { ...SIZE, ...request }, { background: true }));
  assert.equal(made?.state, 'succeeded', made?.error?.message ?? 'it died');
  return made.result as ImageWarmed;
}

/** A host with a template, and a daemon that has recovered. */
export async function warmHost(
  guests = noGuests(),
): Promise<{ place: MortalHost; daemon: Daemon; template: ImageWarmed }> {
  const place = await mortalHost();
  const daemon = withAgents(place.daemon(), guests);
  await daemon.recover();
  return { place, daemon, template: await warm(daemon) };
}

export async function until<T>(look: () => T | false | undefined): Promise<T> {
  for (;;) {
    const found = look();
    if (found) return found;
    await setImmediate();
  }
}

/** What is left of everything, in a form that is the same on each host. */
export function look(place: MortalHost, daemon: Daemon) {
  const { stores, config } = place;
  const { devices, rules, ledger, vmms } = place.see(daemon);
  const { store } = config.paths;
  const directories = (name: string) => (existsSync(join(store, name)) ? readdirSync(join(store, name)) : []);
  return {
    ...{
      web: stores.vms.find('web')?.phase ?? 'none',
      vmms: vmms.sort(),
      devices: devices.length,
      rules: rules.length,
    },
    strays: ledger.filter((kind) => kind.startsWith('nobody')),
    vms: directories('vms').length,
    memory: directories('vms').filter((id) => existsSync(join(store, 'vms', id, 'suspended'))).length,
    templates: [stores.templates.list().length, directories('templates').length],
  };
}

export const EMPTY = { web: 'none', vmms: [], devices: 0, rules: 0, strays: [], vms: 0, memory: 0, templates: [0, 0] };
export const WARM = { ...EMPTY, templates: [1, 1] };
export const UP = { ...WARM, web: 'running', vmms: ['Running'], devices: 1, rules: 1, vms: 1 };
