import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { stringify } from 'smol-toml';
import { loadConfig } from '../../src/config/load.ts';
import { resolvePaths } from '../../src/config/paths.ts';
import { listSettings, type Setting, variableOf } from '../../src/config/settings.ts';
import { checkConfig, showConfig } from '../../src/config/show.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('showConfig', () => {
  it('tells for each value where it comes from', async (t) => {
    const home = await tempDir(t);
    await writeFile(join(home, 'config.toml'), '# mine\n[vm]\n\nmemory = "2048M"\n');
    const loaded = await loadConfig({
      env: { BANGER_HOME: home, BANGER_DNS_TTL: '1m' },
      uid: 0,
      flags: { vmm: 'fcqemu' },
    });
    const shown = new Map(showConfig(loaded, { vcpus: 2 }).map((setting) => [setting.key, setting]));
    const brief = (key: string) => {
      const { value, source, where } = shown.get(key) ?? assert.fail(key);
      return [value, source, where];
    };
    assert.deepEqual(brief('vmm'), ['"fcqemu"', 'flag', 'vmm']);
    assert.deepEqual(brief('vm.memory'), ['"2GiB"', 'file', `${join(home, 'config.toml')}:4`]);
    assert.deepEqual(brief('vm.vcpus'), ['2', 'bundle', null]);
    assert.deepEqual(brief('vm.root_disk'), ['"8GiB"', 'built-in', null]);
    assert.deepEqual(brief('dns.ttl'), ['"1m"', 'environment', 'BANGER_DNS_TTL']);
    assert.deepEqual(brief('dns.port'), ['42069', 'built-in', null]);
    assert.deepEqual(brief('bundle.kernel'), [null, 'unset', null]);
    assert.equal(shown.size, listSettings().length);
  });

  it('writes values that read back as the same configuration', async (t) => {
    const home = await tempDir(t);
    const first = await loadConfig({
      env: { BANGER_HOME: home, BANGER_VM_MEMORY: '1537M', BANGER_LIMITS_STOP_TIMEOUT: '90s' },
      uid: 0,
    });
    const lines = showConfig(first)
      .filter(({ value, key }) => value !== null && key !== 'paths.run')
      .map(({ key, value }) => `${key} = ${value}`);
    await writeFile(join(home, 'config.toml'), lines.join('\n'));
    const second = await loadConfig({ env: { BANGER_HOME: home }, uid: 0 });
    assert.deepEqual({ ...second.config, vm: second.config.vm.memoryMib }, { ...first.config, vm: 1537 });
  });
});

describe('checkConfig', () => {
  it('tells problems and warnings without throwing', async (t) => {
    const home = await tempDir(t);
    const file = join(home, 'config.toml');
    await writeFile(file, stringify({ vm: { vcpu: 2 } }));
    const report = await checkConfig({ env: { BANGER_HOME: home, BANGER_VMMM: 'auto' }, uid: 0 });
    assert.deepEqual(report.files, [{ path: file, exists: true }]);
    assert.deepEqual(
      report.problems.map(({ line, message }) => [line, message]),
      [[2, 'Unknown key "vm.vcpu". Did you mean "vm.vcpus"?']],
    );
    assert.equal(report.warnings.length, 1);
  });
});

describe('settings', () => {
  it('have variables that cannot be confused', () => {
    const variables = listSettings().map(({ key }) => variableOf(key));
    assert.equal(new Set(variables).size, variables.length);
    assert.ok(variables.every((variable) => /^BANGER_[A-Z0-9_]+$/.test(variable)));
  });

  it('are all in docs/configuration.md, in this order, with what they take and mean', async () => {
    const documentation = await readFile(new URL('../../docs/configuration.md', import.meta.url), 'utf8');
    const rows = documentation.split('\n').filter((line) => line.startsWith('| `'));
    assert.deepEqual(rows, listSettings().map(documentationRow));
  });
});

function documentationRow(setting: Setting<unknown>): string {
  const paths = resolvePaths({ BANGER_HOME: '/home' }, 0);
  const value = () => setting.builtIn({ paths, arch: 'x64', decided: new Map([['paths.state', '/home/state']]) });
  const builtIn =
    setting.builtInText ?? `\`${setting.kind.write(value() ?? assert.fail(`${setting.key} has no built-in value`))}\``;
  return `| \`${setting.key}\` | ${setting.kind.expects} | ${builtIn} | ${setting.about} |`;
}
