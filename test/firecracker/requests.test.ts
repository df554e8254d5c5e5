import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { configurationRequests } from '../../src/firecracker/machine-config.ts';
import type { VmmRequest } from '../../src/firecracker/requests.ts';
import * as requests from '../../src/firecracker/requests.ts';
import { parseVmmVersion, type VmmVersion } from '../../src/firecracker/versions.ts';
import { requestProblems, skip } from './api-description.ts';

const machine = {
  vcpus: 2,
  memoryMib: 512,
  kernel: '/bundle/vmlinux',
  initrd: '/bundle/initrd.img',
  bootArgs: 'console=ttyS0',
  drives: [
    { id: 'root', path: '/vm/root.ext4', readOnly: false },
    { id: 'seed', path: '/vm/seed.img', readOnly: true },
  ],
  tap: 'bgr-5f3a9c01',
  mac: '06:00:ac:1e:00:02',
  mtu: 1500,
  vsock: 'v.sock',
};

const version = (text: string) => parseVmmVersion(text) as VmmVersion;

interface Refusals {
  /** by request, and path of an object in its body: what it says of a field it does not know */
  unknownField: Record<string, string>;
  /** by request and path of a field: the words it takes there */
  unknownVariant: Record<string, string>;
  /** by request: fields without which it refuses the body */
  missingField: Record<string, string[]>;
}

/** What each release refuses, by its own words: from answers recorded of Firecracker itself. */
const REFUSALS: Record<string, Refusals> = JSON.parse(readFileSync(new URL('refusals.json', import.meta.url), 'utf8'));

/** Every way the driver can call each of its requests; a new one without an example fails below. */
const EXAMPLES: Record<keyof typeof requests, VmmRequest[]> = {
  describeInstance: [requests.describeInstance()],
  version: [requests.version()],
  machineConfig: [requests.machineConfig({ vcpu_count: 1, mem_size_mib: 128 })],
  bootSource: [requests.bootSource({ kernel_image_path: '/vmlinux', boot_args: 'quiet', initrd_path: '/initrd' })],
  drive: [requests.drive({ drive_id: 'root', path_on_host: '/root.ext4', is_root_device: false })],
  updateDrive: [requests.updateDrive({ drive_id: 'work', path_on_host: '/work.ext4' })],
  networkInterface: [requests.networkInterface({ iface_id: 'eth0', host_dev_name: 'tap0', guest_mac: machine.mac })],
  entropy: [requests.entropy(), requests.entropy({ rate_limiter: { bandwidth: { size: 1000, refill_time: 100 } } })],
  vsock: [requests.vsock({ guest_cid: 3, uds_path: 'v.sock' })],
  action: [requests.action('InstanceStart'), requests.action('SendCtrlAltDel'), requests.action('FlushMetrics')],
  createSnapshot: [requests.createSnapshot({ snapshot_path: '/vmstate', mem_file_path: '/memory' })],
  loadSnapshot: [
    requests.loadSnapshot({
      snapshot_path: '/vmstate',
      mem_backend: { backend_type: 'File', backend_path: '/memory' },
      resume_vm: true,
    }),
  ],
  setState: [requests.setState('Paused'), requests.setState('Resumed')],
};

describe('requests to a VMM', () => {
  it('configure a machine in the order it must be told', () => {
    const sent = configurationRequests(machine, version('1.16.1')).map(({ method, path }) => `${method} ${path}`);
    assert.deepEqual(sent, [
      'PUT /machine-config',
      'PUT /boot-source',
      'PUT /drives/root',
      'PUT /drives/seed',
      'PUT /network-interfaces/eth0',
      'PUT /entropy',
      'PUT /vsock',
    ]);
  });

  it('name no initrd when there is none', () => {
    const [, bootSource] = configurationRequests({ ...machine, initrd: undefined }, version('1.16.1'));
    assert.deepEqual(bootSource?.body, { kernel_image_path: machine.kernel, boot_args: machine.bootArgs });
  });

  it('have an example each', () => {
    assert.deepEqual(Object.keys(EXAMPLES).toSorted(), Object.keys(requests).toSorted());
  });
});

function recorded(release: string): Refusals {
  const refusals = REFUSALS[release];
  assert.ok(refusals, release);
  return refusals;
}

const quoted = (text: string) => new Set([...text.matchAll(/`(\w+)`/g)].map(([, word]) => word));

/** Why a release refuses a body, as far as that is recorded; `place` is the request, then where in its body. */
function whyRefused(refusals: Refusals, request: string, body: object, place: readonly string[] = []): string[] {
  const at = [request, place.join('.')].join(' ').trim();
  const refusal = refusals.unknownField[at];
  assert.ok(refusal !== undefined || place.length > 0, `nothing is recorded for ${request}`);
  // the name that was made up for the recording is in its answer too
  const known = refusal === undefined ? undefined : quoted(refusal.replace('`zzz`', ''));
  const missing = (refusals.missingField[at] ?? []).filter((field) => !(field in body));
  const wrong = Object.entries(body).flatMap(([field, value]) => {
    if (known && !known.has(field)) return [`${at}: ${field}`];
    const inner = [...place, field];
    if (typeof value === 'object' && value !== null) return whyRefused(refusals, request, value, inner);
    const words = refusals.unknownVariant[`${request} ${inner.join('.')}`];
    return words === undefined || quoted(words).has(value) ? [] : [`${at}: ${field} is ${value}`];
  });
  return [...missing.map((field) => `${at}: no ${field}`), ...wrong];
}

for (const [release, refusals] of Object.entries(REFUSALS)) {
  describe(`requests to Firecracker ${release}`, () => {
    const configuration = configurationRequests(machine, version(release));
    const withBody = [...configuration, ...Object.values(EXAMPLES).flat()].flatMap(({ method, path, body }) => {
      const recorded = path.replace(/^(\/drives)\/.*/, '$1/a').replace(/^(\/network-interfaces)\/.*/, '$1/e0');
      return body === undefined ? [] : [{ request: `${method} ${recorded}`, body }];
    });

    it('are all accepted', () => {
      assert.ok(withBody.length > EXAMPLES.action.length + configuration.length);
      assert.deepEqual(
        withBody.flatMap(({ request, body }) => whyRefused(refusals, request, body)),
        [],
      );
    });
  });
}

describe('requests to releases that differ', () => {
  const mtuIn = (text: string) =>
    configurationRequests(machine, version(text)).flatMap(({ path, body }) =>
      path.startsWith('/network-interfaces') && body && 'mtu' in body ? [body.mtu] : [],
    );

  it('tell the MTU to those that take it', () => {
    for (const text of ['1.10.0', '1.13.1', '1.15.9']) assert.deepEqual(mtuIn(text), [], text);
    for (const text of ['1.16.0', '1.16.1', '1.16.1+fcqemu', '1.17.0', '2.0.0']) {
      assert.deepEqual(mtuIn(text), [1500], text);
    }
  });

  it('would be refused with it by those that do not', () => {
    const body = { iface_id: 'eth0', host_dev_name: 'tap0', mtu: 1500 };
    const request = 'PUT /network-interfaces/e0';
    assert.deepEqual(whyRefused(recorded('1.13.1'), request, body), [`${request}: mtu`]);
    assert.deepEqual(whyRefused(recorded('1.16.1'), request, body), []);
  });
});

describe('recorded refusals', () => {
  it('are of wrong fields, wrong words and missing fields', () => {
    const drive = { drive_id: 'a', is_root_device: false, cache_type: 'Fast', path: '/x' };
    const problems = ['PUT /drives/a: cache_type is Fast', 'PUT /drives/a: path'];
    assert.deepEqual(whyRefused(recorded('1.13.1'), 'PUT /drives/a', drive), problems);
    const load = { mem_backend: { backend_type: 'Tape', backend_path: '/m', size: 1 } };
    assert.deepEqual(whyRefused(recorded('1.13.1'), 'PUT /snapshot/load', load), [
      'PUT /snapshot/load: no snapshot_path',
      'PUT /snapshot/load mem_backend: backend_type is Tape',
      'PUT /snapshot/load mem_backend: size',
    ]);
  });
});

describe("requests to a VMM against Firecracker's own description", { skip }, () => {
  for (const request of [...Object.values(EXAMPLES).flat(), ...configurationRequests(machine, version('1.16.1'))]) {
    it(`${request.method} ${request.path} is as described`, () => {
      assert.deepEqual(requestProblems(request), []);
    });
  }

  it('would be found out if they were not', () => {
    assert.deepEqual(requestProblems({ method: 'PUT', path: '/nosuch' }), ['PUT /nosuch is not described']);
    assert.deepEqual(requestProblems({ method: 'PUT', path: '/machine-config', body: { vcpu_count: 33, cpus: 'x' } }), [
      'body.mem_size_mib: missing',
      'body.vcpu_count: 33 is not from 1 to 32',
      'body.cpus: unknown',
    ]);
    const drive = { drive_id: 'b', is_root_device: 'no' };
    assert.deepEqual(requestProblems({ method: 'PUT', path: '/drives/a', body: drive }), [
      'body.is_root_device: string instead of boolean',
      'body.drive_id is not the a of the path',
    ]);
  });
});
