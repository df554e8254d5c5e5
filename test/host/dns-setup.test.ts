/** `banger dns setup` from the command line to the C library, with a daemon and dnsmasq in a namespace of their own. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { debianPackage } from '../dns/support/debian-packages.ts';
import { runInNamespace, whyNoNamespace } from '../dns/support/namespace.ts';
import { daemonSkip } from '../support/host.ts';

interface Said {
  status: number;
  stdout: string;
  stderr: string;
}

const BANGER = join(import.meta.dirname, '../../dist/banger');
const FILE = 'banger-vm.conf';
const unpacked = await debianPackage('dnsmasq-base', 'dnsmasq').catch((error: Error) => error.message);
const skip = daemonSkip() || (await whyNoNamespace()) || (typeof unpacked === 'string' && unpacked);

describe('banger dns setup', { skip }, () => {
  let findings: Record<string, unknown> = {};
  const said = (what: string) => findings[what] as Said;
  const text = (what: string) => String(findings[what]);
  const files = (what: string) => findings[what] as string[];

  it('changes nothing when it is only asked what it would do', async () => {
    assert.ok(typeof unpacked === 'object');
    const env = { PATH: unpacked.path, LD_LIBRARY_PATH: unpacked.libraries };
    findings = JSON.parse(await runInNamespace('setup-scenario.ts', [BANGER], env));
    assert.match(text('dryRun'), /^write +\/etc\/dnsmasq\.d\/banger-vm\.conf\n[\s\S]*^run +service dnsmasq restart$/m);
    assert.ok(!files('afterDryRun').includes(FILE));
    assert.match(text('brokenBefore'), /^BROKEN +resolver [\s\S]* banger dns setup$/m);
  });

  it('prints what it does and proves it; done again it proves it only', () => {
    const { status, stdout, stderr } = said('setup');
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^ +\| server=\/vm\/127\.0\.0\.1#42069$/m);
    assert.match(stdout, /^Done: .* Proof: getaddrinfo\("\w+\._probe\.vm"\) = 10\.\d+\.0\.1, as banger says\.$/m);
    assert.ok(files('afterSetup').includes(FILE));
    assert.match(text('lookup'), /^10\.\d+\.0\.1$/);
    assert.equal(JSON.parse(text('again')).changed, false);
    assert.equal(said('explained').status, 0, said('explained').stdout);
    assert.match(said('explained').stdout, /^ok +lookup +Programs on this host find _probe\.vm at 10\./m);
  });

  it('is taken back whole', () => {
    assert.equal(said('undo').status, 0, said('undo').stderr);
    assert.equal(text('lookupAfterUndo'), 'nothing');
    assert.ok(!files('afterUndo').includes(FILE));
    assert.match(said('secondUndo').stdout, /^No setup for vm was found on this host\.$/m);
  });

  it('tells a user who may not how root does it, and proves that afterwards', () => {
    const { status, stderr } = said('refused');
    assert.equal(status, 6, stderr);
    assert.match(stderr, /Nothing was changed\.\n +.*banger dns setup --script \| sudo sh/);
    assert.ok(!files('afterRefusal').includes(FILE));
    assert.equal(said('proof').status, 0, said('proof').stderr);
    assert.match(said('proof').stdout, /^It was set up already: .* Proof: getaddrinfo/m);
  });
});
