/** The bill of materials of a release in SPDX 2.3 (JSON): banger, the Node inside with its own parts, packages, and musl. */
import { createHash } from 'node:crypto';

/** dist/parts.json, as the build writes it. */
export interface Parts {
  /** `process.versions` of the Node inside */
  node: Record<string, string>;
  packages: readonly { name: string; version: string; license?: string }[];
}

export interface SbomRequest {
  version: string;
  /** time of the sources */
  date: Date;
  parts: Parts;
  muslVersion: string;
  /** names and SHA-256 of the files of the release */
  files: readonly { name: string; sha256: string }[];
}

/** Entries of `process.versions` that are no programs. */
const NO_PROGRAMS = new Set(['node', 'modules', 'napi', 'unicode']);

interface SpdxPackage {
  SPDXID: string;
  name: string;
  versionInfo: string;
  downloadLocation: 'NOASSERTION';
  filesAnalyzed: false;
  licenseConcluded: 'NOASSERTION';
  licenseDeclared: string;
  copyrightText: 'NOASSERTION';
  primaryPackagePurpose?: 'APPLICATION' | 'LIBRARY';
  externalRefs?: { referenceCategory: 'PACKAGE-MANAGER'; referenceType: 'purl'; referenceLocator: string }[];
}

/** The document as text; the same parts and files give the same text. */
export function renderSbom({ version, date, parts, muslVersion, files }: SbomRequest): string {
  const own = spdxPackage('banger', version, 'Apache-2.0', 'APPLICATION');
  const node = spdxPackage('node', parts.node.node ?? '', 'MIT', 'APPLICATION');
  const insideNode = Object.entries(parts.node)
    .filter(([name, value]) => !NO_PROGRAMS.has(name) && value !== '')
    .map(([name, value]) => spdxPackage(`node-${name}`, value, undefined, 'LIBRARY'));
  const packages = parts.packages.map(({ name, version: each, license }) => ({
    ...spdxPackage(name, each, license, 'LIBRARY' as const),
    externalRefs: [
      {
        referenceCategory: 'PACKAGE-MANAGER' as const,
        referenceType: 'purl' as const,
        referenceLocator: `pkg:npm/${name.replace('@', '%40')}@${each}`,
      },
    ],
  }));
  const musl = spdxPackage('musl', muslVersion, 'MIT', 'LIBRARY');
  const contains = (from: SpdxPackage, to: SpdxPackage) => ({
    spdxElementId: from.SPDXID,
    relationshipType: 'CONTAINS',
    relatedSpdxElement: to.SPDXID,
  });
  const content = {
    name: `banger-${version}`,
    packages: [own, node, ...insideNode, ...packages, musl],
    files: files.map(({ name, sha256 }) => ({
      SPDXID: spdxId('File', name),
      fileName: `./${name}`,
      checksums: [{ algorithm: 'SHA256', checksumValue: sha256 }],
      licenseConcluded: 'NOASSERTION',
      copyrightText: 'NOASSERTION',
    })),
    relationships: [
      { spdxElementId: 'SPDXRef-DOCUMENT', relationshipType: 'DESCRIBES', relatedSpdxElement: own.SPDXID },
      ...[node, ...packages, musl].map((each) => contains(own, each)),
      ...insideNode.map((each) => contains(node, each)),
    ],
  };
  const digest = createHash('sha256').update(JSON.stringify(content)).digest('hex');
  const document = {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    // names the document and is no address; another content has another one
    documentNamespace: `urn:banger:spdx:${version}:${digest}`,
    creationInfo: { created: `${date.toISOString().slice(0, 19)}Z`, creators: ['Tool: banger-release'] },
    ...content,
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

function spdxPackage(
  name: string,
  version: string,
  license: string | undefined,
  purpose: 'APPLICATION' | 'LIBRARY',
): SpdxPackage {
  return {
    SPDXID: spdxId('Package', `${name}-${version}`),
    name,
    versionInfo: version,
    downloadLocation: 'NOASSERTION',
    filesAnalyzed: false,
    licenseConcluded: 'NOASSERTION',
    // what a package says may be no SPDX expression
    licenseDeclared: license !== undefined && /^[\w.+() -]+$/.test(license) ? license : 'NOASSERTION',
    copyrightText: 'NOASSERTION',
    primaryPackagePurpose: purpose,
  };
}

/** Letters, digits, dots and dashes are what an identifier may have. */
function spdxId(kind: string, name: string): string {
  return `SPDXRef-${kind}-${name.replace(/[^A-Za-z0-9.-]+/g, '-')}`;
}
