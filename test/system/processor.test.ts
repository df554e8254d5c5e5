import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseProcessor, readProcessor } from '../../src/system/processor.ts';

const INTEL = `processor\t: 0
model name\t: Intel(R) Xeon(R) CPU @ 2.10GHz
microcode\t: 0x5003604
flags\t\t: fpu vme de
bogomips\t: 4200.01

processor\t: 1
model name\t: another
`;

describe('a processor', () => {
  it('is told by model, microcode and features, in whatever order these are', () => {
    const { description, tscMhz } = parseProcessor(INTEL);
    assert.match(description, /^Intel\(R\) Xeon\(R\) CPU @ 2\.10GHz \(microcode 0x5003604, features [0-9a-f]{8}\)$/);
    assert.equal(tscMhz, 2100.005);
    assert.equal(parseProcessor(INTEL.replace('fpu vme de', 'de fpu vme')).description, description);
    assert.notEqual(parseProcessor(INTEL.replace('fpu vme de', 'fpu vme')).description, description);
    assert.notEqual(parseProcessor(INTEL.replace('0x5003604', '0x5003605')).description, description);
  });

  it('of arm64, or of nobody knows what, is told as far as the kernel does', () => {
    const arm = parseProcessor('processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\n');
    assert.match(arm.description, /^0xd0c \(features [0-9a-f]{8}\)$/);
    assert.equal(arm.tscMhz, null);
    assert.match(parseProcessor('').description, /^unknown /);
  });

  it('is there on this host', async () => {
    assert.match((await readProcessor()).description, /features [0-9a-f]{8}\)$/);
  });
});
