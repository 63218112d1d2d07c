// SPICE 1.0 asks the JVM's JavaScript engine to indent its result before writing it:
//     engine.put("jsonString", s); engine.eval("result = JSON.stringify(JSON.parse(jsonString), null, 2)");
//     engine.get("result")
// Java 15 removed that engine, so that SPICE ends with a NullPointerException after all its work is done. This engine
// answers to the same name and hands the text back as it is; it runs no script.
//
// Build (Java 9 or later): ./build.sh

package xmodaler_ssattn;

import java.io.Reader;
import java.util.Collections;
import java.util.List;
import javax.script.AbstractScriptEngine;
import javax.script.Bindings;
import javax.script.ScriptContext;
import javax.script.ScriptEngine;
import javax.script.ScriptEngineFactory;
import javax.script.SimpleBindings;

public final class PassThroughEngine extends AbstractScriptEngine {
    public static final class Factory implements ScriptEngineFactory {
        public String getEngineName() { return "pass-through"; }
        public String getEngineVersion() { return "1"; }
        public String getLanguageName() { return "JavaScript"; }
        public String getLanguageVersion() { return "0"; }
        public List<String> getExtensions() { return Collections.emptyList(); }
        public List<String> getMimeTypes() { return Collections.emptyList(); }
        public List<String> getNames() { return Collections.singletonList("JavaScript"); }
        public Object getParameter(String key) { return null; }
        public String getMethodCallSyntax(String object, String method, String... args) { return ""; }
        public String getOutputStatement(String text) { return ""; }
        public String getProgram(String... statements) { return ""; }
        public ScriptEngine getScriptEngine() { return new PassThroughEngine(this); }
    }

    private final ScriptEngineFactory factory;

    PassThroughEngine(ScriptEngineFactory factory) { this.factory = factory; }

    public Object eval(String script, ScriptContext context) {
        put("result", get("jsonString"));
        return null;
    }

    public Object eval(Reader reader, ScriptContext context) { return eval("", context); }

    public Bindings createBindings() { return new SimpleBindings(); }

    public ScriptEngineFactory getFactory() { return factory; }
}
