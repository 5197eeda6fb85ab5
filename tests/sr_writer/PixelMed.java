import com.pixelmed.validate.DicomSRValidator;
import javax.xml.transform.Transformer;
import javax.xml.transform.URIResolver;
import javax.xml.transform.stream.StreamSource;

/** Judges structured reports, all in one process: {@code java -cp pixelmed.jar PixelMed.java FILE...}. */
public class PixelMed {
    public static void main(String[] files) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        nameDocuments(validator, "transformerPass1");
        nameDocuments(validator, "transformerPass2");
        for (String file : files) {
            System.out.println("# " + file);
            System.out.println(validator.validate(file));
        }
    }

    /** Without a name the table of context groups is parsed anew for every content item: 10 s a report instead of 0.1. */
    private static void nameDocuments(DicomSRValidator validator, String name) throws Exception {
        var field = DicomSRValidator.class.getDeclaredField(name);
        field.setAccessible(true);
        Transformer transformer = (Transformer) field.get(validator);
        URIResolver resolver = transformer.getURIResolver();
        transformer.setURIResolver((href, base) -> {
            StreamSource source = (StreamSource) resolver.resolve(href, base);
            source.setSystemId(href);
            return source;
        });
    }
}
