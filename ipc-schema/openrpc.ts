// Owns: the OpenRPC 1.3 document of the local API, generated from the method table, the error table and their schemas.
// Invariants: pure and deterministic: the same tables give the same text, so that openrpc.json can be checked fresh.
// Schemas are JSON Schema draft 2020-12. `params` lists the members by name as OpenRPC wants it; what it cannot say (exactly one of, no
// unknown member) stands in `x-params`, which is the whole schema of the params object. `x-roles`: who may call.
// Must not: read or write files (installers/openrpc.ts does).
import { charterSchema } from './charter.ts';
import { type ErrorCode, errorTable } from './errors.ts';
import { invoiceDocumentSchema } from './invoice.ts';
import { commonErrors, eventNames, type Method, type MethodName, methods, protocolVersion } from './methods.ts';
import { jsonSchema, type Schema } from './schema.ts';
import { templateSchema } from './template.ts';
import { enrolmentSchema, enrolmentTicketSchema, entryViewSchema, refusalSchema, tokenViewSchema } from './upstream.ts';

type Json = Record<string, unknown>;

/** Shapes that no method carries as such: documents inside strings and what the ticket server speaks. */
const standAlone: Readonly<Record<string, Schema>> = {
  Document: invoiceDocumentSchema,
  Charter: charterSchema,
  Template: templateSchema,
  EnrolmentTicket: enrolmentTicketSchema,
  Enrolment: enrolmentSchema,
  UploadRefusal: refusalSchema,
  TokenView: tokenViewSchema,
  EntryView: entryViewSchema,
};

/** The whole document. Throws when a schema cannot be written as JSON Schema. */
export function openrpcDocument(): Json {
  const described = Object.entries(methods).map(([name, method]) => describe(name as MethodName, method));
  const schemas = Object.fromEntries(Object.entries(standAlone).map(([name, schema]) => [name, jsonSchema(schema, 'output')]));
  return {
    openrpc: '1.3.2',
    info: {
      title: 'ukeyd local API',
      version: `${protocolVersion}.0.0`,
      description: 'JSON-RPC 2.0 over a local socket; framing, handshake and errors are told in SPEC.md. Generated: do not edit.',
      license: { name: 'Apache-2.0' },
    },
    methods: described,
    components: {
      schemas,
      errors: Object.fromEntries((Object.keys(errorTable) as ErrorCode[]).map((code) => [code, describeError(code)])),
    },
    'x-schema-dialect': 'https://json-schema.org/draft/2020-12/schema',
    'x-notifications': [{ name: 'event', events: eventNames }],
  };
}

/** The text of openrpc.json. */
export function openrpcText(): string {
  return `${JSON.stringify(openrpcDocument(), null, 2)}\n`;
}

function describe(name: MethodName, method: Method): Json {
  const params = jsonSchema(method.params, 'input');
  const errors = [...commonErrors, ...method.errors];
  return {
    name,
    summary: method.summary,
    paramStructure: 'by-name',
    params: descriptors(params),
    result: { name: 'result', schema: jsonSchema(method.result, 'output') },
    errors: errors.map((code) => ({ $ref: `#/components/errors/${code}` })),
    'x-roles': method.roles,
    'x-params': params,
  };
}

/** One content descriptor for each member; of alternatives, the members of all, required where every alternative requires them. */
function descriptors(schema: Json): Json[] {
  const alternatives = Array.isArray(schema['anyOf']) ? (schema['anyOf'] as Json[]) : [schema];
  const members = new Map<string, Json>();
  for (const alternative of alternatives) {
    for (const [name, member] of Object.entries((alternative['properties'] ?? {}) as Json)) {
      const required = alternatives.every((one) => ((one['required'] ?? []) as string[]).includes(name));
      members.set(name, { name, required, schema: member });
    }
  }
  return [...members.values()];
}

function describeError(code: ErrorCode): Json {
  const { rpcCode, fault, retry, action } = errorTable[code];
  return { code: rpcCode, message: code, data: { code, retry, action }, 'x-fault': fault };
}
