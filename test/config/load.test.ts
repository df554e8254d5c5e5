import assert from 'node:assert/strict';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { loadConfig } from '../../src/config/load.ts';
import { vmDefaults } from '../../src/config/schema.ts';
import { BangerError } from '../../src/errors.ts';
import { GIB } from '../../src/units.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('loadConfig', () => {
  it('is complete without any file', async (t) => {
    const home = await tempDir(t);
    const { config, origins, warnings } = await loadConfig({ env: { BANGER_HOME: home }, uid: 0, arch: 'x64' });
    assert.equal(config.vmm, 'auto');
    assert.equal(config.paths.store, join(home, 'state/store'));
    assert.equal(config.programs.qemu, 'qemu-system-x86_64');
    assert.deepEqual(config.vm, {});
    assert.deepEqual(config.network, { pool: 'auto', uplink: 'auto', vmToVm: true, vmToHost: false, nameservers: [] });
    assert.deepEqual(config.dns, { enabled: true, address: '127.0.0.1', port: 42069, zone: 'vm', ttlSeconds: 10 });
    assert.deepEqual(warnings, []);
    assert.deepEqual(origins.get('vmm'), { source: 'built-in' });
  });

  it('reads every section of a file', async (t) => {
    const { config } = await load(t, {
      toml: `
vmm = "fcqemu"
[paths]
state = "/srv/state"
[vm]
vcpus = 4
memory = "1.5GiB"
root_disk = "20G"
[network]
pool = "10.9.0.0/16"
vm_to_vm = false
nameservers = ["9.9.9.9", "2620:fe::fe"]
[dns]
ttl = "1m"
zone = "Lab.VM."
[programs]
firecracker = "~/bin/firecracker"
[limits]
boot_timeout = "2m30s"
`,
      env: { HOME: '/home/ann' },
    });
    assert.equal(config.vmm, 'fcqemu');
    assert.equal(config.paths.store, '/srv/state/store');
    assert.deepEqual(config.vm, { vcpus: 4, memoryMib: 1536, rootDiskBytes: 20 * GIB });
    assert.deepEqual(config.network.nameservers, ['9.9.9.9', '2620:fe::fe']);
    assert.equal(config.network.vmToVm, false);
    assert.equal(config.dns.ttlSeconds, 60);
    assert.equal(config.dns.zone, 'lab.vm');
    assert.equal(config.programs.firecracker, '/home/ann/bin/firecracker');
    assert.equal(config.limits.bootTimeoutMs, 150_000);
  });

  it('lets flags win over variables, and variables over files', async (t) => {
    const toml = 'vmm = "firecracker"\n[vm]\nvcpus = 2\nmemory = "2G"\n';
    const { config, origins } = await load(t, {
      toml,
      env: { BANGER_VM_VCPUS: '3', BANGER_VM_MEMORY: '3G', BANGER_NETWORK_NAMESERVERS: '1.1.1.1, 8.8.8.8' },
      flags: { 'vm.memory': '4G' },
    });
    assert.deepEqual([config.vmm, config.vm.vcpus, config.vm.memoryMib], ['firecracker', 3, 4096]);
    assert.deepEqual(config.network.nameservers, ['1.1.1.1', '8.8.8.8']);
    assert.equal(origins.get('vmm')?.source, 'file');
    assert.deepEqual(origins.get('vm.vcpus'), { source: 'environment', where: 'BANGER_VM_VCPUS' });
    assert.deepEqual(origins.get('vm.memory'), { source: 'flag', where: 'vm.memory' });
  });

  it('lets the later of two files win, setting by setting', async (t) => {
    const dir = await tempDir(t);
    await mkdir(join(dir, 'banger'));
    await writeFile(join(dir, 'banger/config.toml'), '[vm]\nvcpus = 2\n');
    const { config, files } = await loadConfig({
      env: { HOME: '/home/ann', XDG_CONFIG_HOME: dir },
      uid: process.getuid?.() ?? 0,
    });
    assert.equal(config.vm.vcpus, 2);
    assert.deepEqual(
      files.map(({ path }) => path),
      ['/etc/banger/config.toml', join(dir, 'banger/config.toml')],
    );
  });

  it('points at an unknown key and names the one that was meant', async (t) => {
    const error = await failure(t, { toml: 'vmm = "auto"\n\n[vm]\n  memroy = "2G"\n' });
    assert.match(
      error.message,
      /config\.toml:4:3: Unknown key "vm\.memroy"\. Did you mean "vm\.memory"\?\n4: {4}memroy = "2G"\n {6}\^$/,
    );
    assert.equal(error.exitStatus, 2);
  });

  it('finds what was meant in other sections and in quoted keys', async (t) => {
    const error = await failure(t, { toml: 'memory = "2G"\n"vm.vcpus" = 2\n[netwrok]\npool = "auto"\n' });
    assert.match(error.message, /1:1: Unknown key "memory"\. Did you mean "vm\.memory"\?/);
    assert.match(error.message, /2:1: Unknown key "vm\.vcpus"\. Did you mean "vm\.vcpus"\?/);
    assert.match(error.message, /3:2: Unknown key "netwrok"\. Did you mean "network"\?/);
  });

  it('reports all problems of all places at once', async (t) => {
    const error = await failure(t, {
      toml: '[vm]\nvcpus = 0\nmemory = 512\n[network]\npool = "172.30.0.0/-1"\n',
      env: { BANGER_DNS_PORT: '70000' },
      flags: { 'vm.memmory': '2G' },
    });
    assert.match(error.message, /2:9: vm\.vcpus: 0 is outside 1 to 32\./);
    assert.match(error.message, /3:10: vm\.memory: 512 has no unit; write it as "512MiB"\./);
    assert.match(error.message, /5:8: network\.pool: "172\.30\.0\.0\/-1" is not an address range\./);
    assert.match(error.message, /BANGER_DNS_PORT: dns\.port: 70000 is outside 1 to 65535\./);
    assert.match(error.message, /vm\.memmory: Unknown setting\. Did you mean vm\.memory\?/);
    assert.equal(asArray(error.details?.problems).length, 5);
  });

  const wrongValues: [string, RegExp][] = [
    ['vmm = "qemu"', /1:7: vmm: "qemu" is not a choice\. It takes one of "auto", "firecracker", "fcqemu"\./],
    ['vmm = 3', /vmm: 3 is not a text/],
    ['vm = 3', /"vm" is a section of settings, not a value/],
    ['[vmm]\nx = 1', /vmm: A table is not a text/],
    ['[vm]\nmemory = "1MiB"', /1 MiB is less than 64 MiB/],
    ['[vm]\nmemory = "1000000000B"', /is not a whole number of MiB/],
    ['[vm]\nvcpus = 1.5', /1\.5 is not a whole number/],
    ['[paths]\nstore = "vms"', /"vms" is not an absolute path/],
    ['[network]\nuplink = "a name with spaces"', /cannot be the name of a network interface/],
    ['[network]\nnameservers = "dns.example"', /"dns\.example" is not an address/],
    ['[network]\nnameservers = ["1.1.1.1", 4]', /4 is not a text/],
    ['[network]\nvm_to_vm = "yes"', /"yes" is neither true nor false/],
    ['[dns]\nzone = "-vm"', /"-vm" is not a DNS zone/],
    ['[dns]\nttl = 5', /5 has no unit; write it as "30s"/],
    ['[limits]\nboot_timeout = "10ms"', /10 ms is less than 1 s/],
    ['[programs]\nssh = ""', /programs\.ssh: it is empty/],
    ['[programs]\nssh = "bin/ssh"', /"bin\/ssh" is not an absolute path/],
    ['[paths]\nrun = "/tmp/r"', /"paths\.run" cannot be set in a file; set the variable BANGER_PATHS_RUN instead/],
  ];
  for (const [toml, expected] of wrongValues) {
    it(`refuses ${JSON.stringify(toml)}`, async (t) => {
      const error = await failure(t, { toml });
      assert.match(error.message, expected);
    });
  }

  it('points at a key that is set twice', async (t) => {
    const error = await failure(t, { toml: '[vm]\nvcpus = 1\nvcpus = 2\n' });
    assert.match(
      error.message,
      /config\.toml:3:1: This key or section is already set above.*\n2: {2}vcpus = 1\n3: {2}vcpus = 2\n {4}\^/s,
    );
  });

  it('points at a syntax error', async (t) => {
    const error = await failure(t, { toml: '[vm]\nvcpus = \n' });
    assert.match(error.message, /config\.toml:2:9: This is not valid TOML: invalid value\.\n/);
  });

  it('refuses a directory in place of the file', async (t) => {
    const home = await tempDir(t);
    await mkdir(join(home, 'config.toml'));
    await assert.rejects(loadConfig({ env: { BANGER_HOME: home }, uid: 0 }), /config\.toml: This is a directory/);
  });

  it('says that a file may not be read', async (t) => {
    const uid = process.getuid?.();
    if (uid === 0) {
      // root may read everything: become a user who may not, and come back
      process.seteuid?.(65_534);
      t.after(() => process.seteuid?.(0));
    }
    const home = await tempDir(t);
    await writeFile(join(home, 'config.toml'), 'vmm = "auto"\n');
    await chmod(join(home, 'config.toml'), 0);
    await assert.rejects(
      loadConfig({ env: { BANGER_HOME: home }, uid: 1000 }),
      /config\.toml: This user may not read the file/,
    );
  });

  it('refuses a file that is not text', async (t) => {
    const home = await tempDir(t);
    await writeFile(join(home, 'config.toml'), Buffer.from([0x61, 0xff, 0xfe]));
    await assert.rejects(
      loadConfig({ env: { BANGER_HOME: home }, uid: 0 }),
      /config\.toml: The file is not UTF-8 text/,
    );
  });

  it('takes CRLF line ends and a comment at the end', async (t) => {
    const { config } = await load(t, { toml: '[vm]\r\nvcpus = 2 # two\r\n# end' });
    assert.equal(config.vm.vcpus, 2);
  });

  it('does not warn about variables that banger itself sets', async (t) => {
    const env = { BANGER_EXEC: '3f2a', BANGER_ON_DEMAND: '1', BANGER_LOG: 'debug' };
    assert.deepEqual((await load(t, { env })).warnings, []);
  });

  it('warns about a mistyped variable', async (t) => {
    const { warnings } = await load(t, { env: { BANGER_VM_MEMROY: '2G', BANGER_TEST_X: '1' } });
    assert.deepEqual(warnings, [
      'The variable BANGER_VM_MEMROY is no setting and has no effect. Did you mean BANGER_VM_MEMORY?',
    ]);
  });

  it('ignores, as root, a file that another user owns in the usual place', async (t) => {
    if (process.getuid?.() !== 0) return t.skip('only root can give a file to another user');
    const dir = await tempDir(t);
    await mkdir(join(dir, 'banger'));
    const file = join(dir, 'banger/config.toml');
    await writeFile(file, 'vmm = "fcqemu"\n');
    const { chown } = await import('node:fs/promises');
    await chown(file, 1234, 1234);
    const { config, warnings } = await loadConfig({ env: { HOME: '/root', XDG_CONFIG_HOME: dir }, uid: 0 });
    assert.equal(config.vmm, 'auto');
    assert.match(warnings[0] ?? '', /is ignored: user 1234 owns it/);
  });
});

describe('vmDefaults', () => {
  it('takes configuration before the bundle and the bundle before built-in values', () => {
    const defaults = vmDefaults({ vm: { vcpus: 4 } }, { vcpus: 2, memoryMib: 512, bootArgs: undefined });
    assert.deepEqual(defaults, {
      vcpus: 4,
      memoryMib: 512,
      rootDiskBytes: 8 * GIB,
      workDiskBytes: 8 * GIB,
      workMount: '/root',
      bootArgs: '',
    });
  });
});

interface Given {
  toml?: string;
  env?: NodeJS.ProcessEnv;
  flags?: Record<string, string>;
}

async function load(t: TestContext, { toml, env, flags }: Given) {
  const home = await tempDir(t);
  if (toml !== undefined) await writeFile(join(home, 'config.toml'), toml);
  return await loadConfig({ env: { BANGER_HOME: home, ...env }, uid: 0, ...(flags ? { flags } : {}) });
}

async function failure(t: TestContext, given: Given): Promise<BangerError> {
  try {
    await load(t, given);
  } catch (error) {
    assert.ok(error instanceof BangerError);
    assert.equal(error.code, 'invalid_input');
    return error;
  }
  return assert.fail('the configuration was accepted');
}

function asArray(value: unknown): unknown[] {
  assert.ok(Array.isArray(value));
  return value;
}
